//go:build linux

package pgbouncer

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// Config is what pgbouncer.ini(5) is made of. Extra are further lines of its section [pgbouncer].
type Config struct {
	Database       string
	ServerPort     int
	Port           int
	PoolMode       string
	Role, Password string
	Extra          string
}

// Path finds the program.
func Path() (string, error) {
	path, err := exec.LookPath("pgbouncer")
	if err != nil { // Debian has it where only root looks
		path, err = exec.LookPath("/usr/sbin/pgbouncer")
	}
	if err != nil {
		return "", fmt.Errorf("pgbouncer is missing: install the Debian package pgbouncer: %w", err)
	}
	return path, nil
}

// Command makes PgBouncer listen on 127.0.0.1. Its files lie in dir, which another user than root must be able to read.
func Command(dir string, cfg Config) (*exec.Cmd, error) {
	path, err := Path()
	if err != nil {
		return nil, err
	}
	ini, users := filepath.Join(dir, "pgbouncer.ini"), filepath.Join(dir, "users.txt")
	settings := fmt.Sprintf(`[databases]
%s = host=127.0.0.1 port=%d
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = scram-sha-256
auth_file = %s
pool_mode = %s
%s`, cfg.Database, cfg.ServerPort, cfg.Port, users, cfg.PoolMode, cfg.Extra)
	if err := os.WriteFile(ini, []byte(settings), 0o644); err != nil {
		return nil, err
	}
	if err := os.WriteFile(users, fmt.Appendf(nil, "%q %q\n", cfg.Role, cfg.Password), 0o644); err != nil {
		return nil, err
	}
	// Two descriptors a session: Go raised our soft limit for ourselves only.
	cmd := exec.Command("/bin/sh", "-c", `ulimit -n "$(ulimit -Hn)"; exec "$0" "$1"`, path, ini) //nolint:noctx // stopped by its owner
	return cmd, asPostgres(cmd)
}

// asPostgres has cmd run as the user of Debian's packages if we are root, as whom PgBouncer refuses to run.
func asPostgres(cmd *exec.Cmd) error {
	if os.Geteuid() != 0 {
		return nil
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		return err
	}
	uid, err := strconv.ParseUint(account.Uid, 10, 32)
	if err != nil {
		return err
	}
	gid, err := strconv.ParseUint(account.Gid, 10, 32)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	return err
}
