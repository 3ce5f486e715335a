//go:build !linux

package native

import "syscall"

// childAttr has a child run as cred (nil: as us), in a process group of its own so that Ctrl-C reaches us and not it.
// Only Linux can also tell it when we die.
func childAttr(cred *syscall.Credential, _ syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: cred, Setpgid: true}
}

// syncFolder writes dir to disk, along with everything else.
func syncFolder(string) error {
	return syscall.Sync()
}
