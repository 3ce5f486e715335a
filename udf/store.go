package udf

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// Store is a folder of published model files, `<model>/<version>-<hash>.onnx`. The hash in the name means that a file is
// never overwritten by another: a rolled back statement cannot damage a version that the registry still has.
type Store struct{ dir string }

// NewStore returns a store in dir, which is made if it does not exist.
func NewStore(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("models folder: %w", err)
	}
	return &Store{dir: dir}, nil
}

// Path says where a version lies or would lie. sha256 is in hexadecimal.
func (s *Store) Path(model string, version int, sha256 string) string {
	return filepath.Join(s.dir, filepath.Base(model), strconv.Itoa(version)+"-"+sha256[:min(16, len(sha256))]+".onnx")
}

// Publish writes a model file durably and returns its SHA-256 in hexadecimal. After a crash at any moment the file is
// there whole or not at all; the caller registers it only after Publish returned.
func (s *Store) Publish(model string, version int, content []byte) (string, error) {
	sum := sha256.Sum256(content)
	hash := hex.EncodeToString(sum[:])
	path := s.Path(model, version, hash)
	folder := filepath.Dir(path)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", fmt.Errorf("publish model: %w", err)
	}
	tmp, err := os.CreateTemp(folder, ".publishing-*")
	if err != nil {
		return "", fmt.Errorf("publish model: %w", err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // gone already when all went well
	_, err = tmp.Write(content)
	if err == nil {
		err = tmp.Sync()
	}
	if closeErr := tmp.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err == nil {
		err = syncFolders(folder, s.dir)
	}
	if err != nil {
		return "", fmt.Errorf("publish model: %w", err)
	}
	return hash, nil
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
