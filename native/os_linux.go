package native

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// childAttr has a child run as cred (nil: as us), in a process group of its own so that Ctrl-C reaches us and not it,
// and get sig when the thread that started it ends.
func childAttr(cred *syscall.Credential, sig syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: cred, Setpgid: true, Pdeathsig: sig}
}

// syncFolder writes the file system that holds dir to disk: one call instead of an fsync for each of a thousand files.
func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return unix.Syncfs(int(f.Fd()))
}
