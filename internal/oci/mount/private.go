package mount

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// inPrivateNamespace runs f on a thread with a mount namespace of its own, in
// which mounts reach nobody. The namespace ends with f.
func inPrivateNamespace(f func() (int, error)) (int, error) {
	type result struct {
		fd  int
		err error
	}
	done := make(chan result)
	go func() {
		// Never unlocked: the thread has its own working directory now and must not be
		// reused. The runtime ends it, or, if it is the process's first, parks it.
		runtime.LockOSThread()
		fd, err := visitPrivateNamespace(f)
		done <- result{fd, err}
	}()
	r := <-done
	return r.fd, r.err
}

// visitPrivateNamespace enters a new namespace, runs f, and comes back: the first
// thread of a process, which does not end, is the one that /proc/self shows.
func visitPrivateNamespace(f func() (int, error)) (int, error) {
	home, err := unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: "/proc/thread-self/ns/mnt", Err: err}
	}
	defer unix.Close(home)
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return -1, os.NewSyscallError("unshare", err)
	}
	defer func() { _ = unix.Setns(home, unix.CLONE_NEWNS) }()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return -1, os.NewSyscallError("make mounts private", err)
	}
	return f()
}
