package mount

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// inPrivateNamespace runs f on a thread with a mount namespace of its own, in
// which mounts reach nobody. The thread ends with f, and the namespace with it.
func inPrivateNamespace(f func() (int, error)) (int, error) {
	type result struct {
		fd  int
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread must not be reused
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			done <- result{-1, os.NewSyscallError("unshare", err)}
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			done <- result{-1, os.NewSyscallError("make mounts private", err)}
			return
		}
		fd, err := f()
		done <- result{fd, err}
	}()
	r := <-done
	return r.fd, r.err
}
