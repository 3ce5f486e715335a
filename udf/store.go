package udf

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
)

// Store is a folder of published model files, `<model>/<model>_v<version>-<hash>.onnx`. A file keeps its name: making
// another version the one in use moves nothing, and so nothing can break half-way. The hash in the name means that a file is
// never overwritten by another: a rolled back statement cannot damage a version that the registry still has.
type Store struct {
	dir string
	// AtStep is for tests, which end the process there: Publish calls it before it begins and after each of its steps.
	AtStep func(step string)
}

// File is a file of a store's.
type File struct {
	Model string // the folder
	Name  string // in the folder; none stands for a folder that is empty
}

// partial begins the names of files that are being written.
const partial = ".publishing-"

// hashLength is how much of a hash a name has.
const hashLength = 16

// NewStore returns a store in dir, which is made if it does not exist.
func NewStore(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("models folder: %w", err)
	}
	return &Store{dir: dir}, nil
}

// FileOf names the file of a version. sha256 is in hexadecimal.
func FileOf(model string, version int, sha256 string) File {
	model = filepath.Base(model)
	return File{model, fmt.Sprintf("%s_v%d-%s.onnx", model, version, sha256[:min(hashLength, len(sha256))])}
}

// Path says where a version lies or would lie. sha256 is in hexadecimal.
func (s *Store) Path(model string, version int, sha256 string) string {
	return s.path(FileOf(model, version, sha256))
}

func (s *Store) path(f File) string { return filepath.Join(s.dir, f.Model, f.Name) }

// Hash returns the SHA-256 of a file in hexadecimal.
func Hash(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// Publish writes a model file durably and returns its SHA-256 in hexadecimal. After a crash at any moment the file is
// there whole or not at all; the caller registers it only after Publish returned.
func (s *Store) Publish(model string, version int, content []byte) (string, error) {
	hash := Hash(content)
	path := s.Path(model, version, hash)
	s.at("begin")
	if err := s.write(path, content); err != nil {
		return "", fmt.Errorf("publish model: %w", err)
	}
	return hash, nil
}

func (s *Store) write(path string, content []byte) error {
	folder := filepath.Dir(path)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(folder, partial+"*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // gone already when all went well
	_, err = tmp.Write(content)
	s.at("written")
	if err == nil {
		err = tmp.Sync()
	}
	if closeErr := tmp.Close(); err == nil {
		err = closeErr
	}
	s.at("synced")
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	s.at("renamed")
	if err == nil {
		err = syncFolders(folder, s.dir)
	}
	s.at("published")
	return err
}

// importFolder is the folder of the store's from which models are imported. Whatever else lies in the store is not for
// everybody who may register a model: encoders belong to somebody.
const importFolder = "import"

// maxModel bounds the size of a file that is imported. A protobuf message can have 2 GiB.
const maxModel = 1 << 30

// ErrImportPath means that a path does not name a file below the folder of imports.
var ErrImportPath = errors.New("not a file below the folder of imports")

// Import reads a file that somebody has put into the store's folder of imports. No path and no link leads out of it.
func (s *Store) Import(path string) ([]byte, error) {
	if !filepath.IsLocal(path) {
		return nil, ErrImportPath
	}
	root, err := os.OpenRoot(filepath.Join(s.dir, importFolder))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrModelMissing, err)
	}
	defer func() { _ = root.Close() }()
	file, err := root.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe would wait for somebody to write
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrModelMissing, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrImportPath, err)
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, ErrImportPath
	}
	if info.Size() > maxModel {
		return nil, unfit("Import a smaller one.", "the file has %d bytes, more than %d", info.Size(), maxModel)
	}
	content, err := io.ReadAll(io.LimitReader(file, maxModel))
	if err != nil {
		return nil, fmt.Errorf("read model: %w", err)
	}
	return content, nil
}

func (s *Store) at(step string) {
	if s.AtStep != nil {
		s.AtStep(step)
	}
}

// owned is the file that says whose the folder is.
const owned = ".scrim-database"

// Claim makes the folder the owner's if it is nobody's, and fails if it is another's: who removes files that his registry does not
// know must not do so where another's are.
func (s *Store) Claim(owner string) error {
	path := filepath.Join(s.dir, owned)
	found, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("models folder: %w", err)
	}
	switch string(found) {
	case owner:
		return nil
	case "": // or a crash has left it so
		if err := os.WriteFile(path, []byte(owner), 0o644); err != nil {
			return fmt.Errorf("models folder: %w", err)
		}
		return nil
	}
	return fmt.Errorf("models folder %s is that of database %s, and this is %s: each needs a folder of its own (if the database was moved, remove %s)",
		s.dir, found, owner, path)
}

// folderName and fileName are what names of encoders and models (scrim.check_encoder_name) make of folders and files.
var (
	folderName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_$-]{0,62}$`)
	fileName   = regexp.MustCompile(`^(.+)_v[1-9][0-9]*-[0-9a-f]{16}\.onnx$`)
)

// List returns what Publish has made in the folder, files that were never finished and empty folders included. Whatever else
// somebody has put there is not the store's.
func (s *Store) List() ([]File, error) {
	folders, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("models folder: %w", err)
	}
	var list []File
	for _, folder := range folders {
		if !folder.IsDir() || !folderName.MatchString(folder.Name()) || folder.Name() == importFolder {
			continue
		}
		entries, err := os.ReadDir(filepath.Join(s.dir, folder.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // another process may have removed it just now
			return nil, fmt.Errorf("models folder: %w", err)
		}
		if err == nil && len(entries) == 0 {
			list = append(list, File{Model: folder.Name()})
		}
		for _, e := range entries {
			match := fileName.FindStringSubmatch(e.Name())
			ours := match != nil && match[1] == folder.Name() || strings.HasPrefix(e.Name(), partial)
			if ours && e.Type().IsRegular() {
				list = append(list, File{folder.Name(), e.Name()})
			}
		}
	}
	return list, nil
}

// Remove deletes a file that List gave, and its folder with the last one. It is no error if it is gone already.
func (s *Store) Remove(f File) error {
	if f.Name != "" {
		if err := os.Remove(s.path(f)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("models folder: %w", err)
		}
	}
	err := os.Remove(filepath.Join(s.dir, f.Model))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, syscall.EEXIST) {
		return fmt.Errorf("models folder: %w", err)
	}
	return nil
}

// syncFolders makes new names durable.
func syncFolders(folders ...string) error {
	for _, folder := range folders {
		d, err := os.Open(folder)
		if err != nil {
			return err
		}
		err = d.Sync()
		if closeErr := d.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return err
		}
	}
	return nil
}
