package mount

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// WithFilesystemIDs runs f on a thread whose filesystem ids are uid and gid and
// which still has all its capabilities.
func WithFilesystemIDs(uid, gid int, f func() error) (err error) {
	runtime.LockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var before [2]unix.CapUserData
	if err := unix.Capget(&header, &before[0]); err != nil {
		runtime.UnlockOSThread()
		return os.NewSyscallError("capget", err)
	}
	oldUID, _ := unix.SetfsuidRetUid(uid)
	oldGID, _ := unix.SetfsgidRetGid(gid)
	// Leaving uid 0 took the filesystem capabilities out of the effective set
	// (capabilities(7)); they are still permitted.
	err = os.NewSyscallError("capset", unix.Capset(&header, &before[0]))
	if err == nil {
		err = f()
	}
	_, _ = unix.SetfsuidRetUid(oldUID)
	_, _ = unix.SetfsgidRetGid(oldGID)
	if rerr := unix.Capset(&header, &before[0]); rerr != nil {
		// Stay locked: the thread ends with the goroutine and is not reused.
		if err == nil {
			err = os.NewSyscallError("capset", rerr)
		}
		return err
	}
	runtime.UnlockOSThread()
	return err
}
