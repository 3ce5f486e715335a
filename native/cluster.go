package native

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// passwordFile, in the data folder, keeps a superuser password that we made up.
const passwordFile = "scrim_superuser_password"

// ensureCluster runs initdb if the data folder holds no cluster. It does so in a sibling folder and renames the result,
// so a folder with PG_VERSION in it is one that initdb has finished.
func (s *Server) ensureCluster(ctx context.Context) error {
	parent := filepath.Dir(s.dir)
	unlock, err := lockFile(ctx, parent, func() {})
	if err != nil {
		return fmt.Errorf("lock %s: %w", parent, err)
	}
	defer unlock()

	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(entries) == 0 {
		return s.initCluster(ctx)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "PG_VERSION")); err != nil {
		return fmt.Errorf("%s is neither empty nor the data folder of a PostgreSQL server: choose another", s.dir)
	}
	if s.password != "" {
		return nil
	}
	kept, err := os.ReadFile(filepath.Join(s.dir, passwordFile))
	if err != nil {
		return fmt.Errorf("the superuser's password is needed for the cluster in %s: %w", s.dir, err)
	}
	s.password = string(kept)
	return nil
}

// initCluster makes the cluster. The caller holds the lock, so every sibling found is one that a killed process left.
func (s *Server) initCluster(ctx context.Context) error {
	if err := removeGlob(s.dir + ".initdb-*"); err != nil {
		return err
	}
	stage, err := os.MkdirTemp(filepath.Dir(s.dir), filepath.Base(s.dir)+".initdb-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(stage) }()
	generated := s.password == ""
	if generated {
		s.password = rand.Text()
	}
	data, password := filepath.Join(stage, "data"), filepath.Join(stage, passwordFile)
	if err := os.WriteFile(password, []byte(s.password), 0o600); err != nil {
		return err
	}
	if err := s.account.own(stage, password); err != nil {
		return err
	}

	cmd := exec.CommandContext(ctx, filepath.Join(s.binaries.Dir, "initdb"), "-D", data, "--username", s.superuser,
		"--auth=scram-sha-256", "--pwfile", password, "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")
	s.account.prepare(cmd, syscall.SIGKILL)
	var log tail
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := runTied(cmd); err != nil {
		return fmt.Errorf("initdb: %w:\n%s", err, &log)
	}

	if generated {
		if err := os.Rename(password, filepath.Join(data, passwordFile)); err != nil {
			return err
		}
	}
	if err := syncFolder(data); err != nil { // initdb was told not to: one call for all is faster
		return fmt.Errorf("sync %s: %w", data, err)
	}
	return os.Rename(data, s.dir)
}

// account is the operating-system user that runs the server. The zero value is the one we are.
type account struct {
	name string
	cred *syscall.Credential
}

// serverAccount is the zero account unless we are root, whom PostgreSQL refuses to run as. Then it is the owner of an
// existing data folder, else the user postgres, else nobody.
func serverAccount(dir string) (account, error) {
	if os.Geteuid() != 0 {
		return account{}, nil
	}
	if info, err := os.Stat(filepath.Join(dir, "PG_VERSION")); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 {
			name := "user " + strconv.Itoa(int(st.Uid))
			return account{name, &syscall.Credential{Uid: st.Uid, Gid: st.Gid}}, nil
		}
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return account{}, fmt.Errorf("user %s: %w", name, err)
		}
		return account{name, &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil
	}
	return account{}, errors.New("PostgreSQL does not run as root, and there is no user postgres or nobody: make one")
}

func (a account) own(paths ...string) error {
	if a.cred == nil {
		return nil
	}
	for _, path := range paths {
		if err := os.Chown(path, int(a.cred.Uid), int(a.cred.Gid)); err != nil {
			return err
		}
	}
	return nil
}

// canEnter explains what PostgreSQL would only call "Permission denied".
func (a account) canEnter(dir string) error {
	if a.cred == nil {
		return nil
	}
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		enter := info.Mode()&0o001 != 0
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			enter = enter || st.Uid == a.cred.Uid && info.Mode()&0o100 != 0 || st.Gid == a.cred.Gid && info.Mode()&0o010 != 0
		}
		if !enter {
			return fmt.Errorf("as root, PostgreSQL is run by %s, who cannot enter %s (%s): choose a folder elsewhere",
				a.name, dir, info.Mode())
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// tempDir is where temporary folders go: the usual place, unless the account cannot enter it or its path is too long for
// a socket in it.
func (a account) tempDir() string {
	if dir := os.TempDir(); len(dir) < 60 && a.canEnter(dir) == nil {
		return dir
	}
	return "/tmp"
}

// prepare has cmd run as the account, with an environment that holds none of our secrets and no PG* variable.
func (a account) prepare(cmd *exec.Cmd, onOurDeath syscall.Signal) {
	cmd.SysProcAttr = childAttr(a.cred, onOurDeath)
	cmd.Dir = "/" // the account may not be able to enter ours
	cmd.Env = []string{"LC_ALL=C"}
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); name == "PATH" || name == "TZ" || name == "LD_LIBRARY_PATH" {
			cmd.Env = append(cmd.Env, v)
		}
	}
}
