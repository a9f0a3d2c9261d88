package daemon

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
)

// topDir is FS_TOPDIR_FL of linux/fs.h: what lies in the directory's subdirectories
// is unrelated.
const topDir = 0x20000

// spread makes the directories that hold a directory for each instance or volume, and
// asks ext4 to place those apart, as chattr(1) advises for /home. Side by side they
// share one block group, in which the files of one instance are looked for among
// those of all that went before it: without a journal ext4 passes over each inode
// freed in the last minute anew (recently_deleted in fs/ext4/ialloc.c), which made
// more than half of berthd's processor time for a start.
func (c *Config) spread() error {
	for _, dir := range []string{
		filepath.Join(c.Root, "instances"), filepath.Join(c.Root, "volumes"),
		filepath.Join(c.Run, "instances"), filepath.Join(c.Run, "keeper"), filepath.Join(c.Run, "oci"),
	} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return api.E("start", api.Exhausted, dir, err)
		}
		placeApart(dir)
	}
	return nil
}

// placeApart sets the flag. It is advice: where a filesystem does not know it, or the
// user may not give it, nothing is lost but time.
func placeApart(dir string) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err != nil || flags&topDir != 0 {
		return
	}
	_ = unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags|topDir))
}
