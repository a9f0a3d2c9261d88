package storage

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/oci/mount"
)

// Program returns the name of the program that file, an absolute path, leads to
// through symbolic links, for a process whose root filesystem is dirs stacked,
// bottom first. Links lead nowhere out of them. Where there is no program, the
// error has kind NotFound.
func (s *Storage) Program(dirs []string, file string) (string, error) {
	merged, err := merge(dirs)
	if err != nil {
		return "", api.E("find program", "", file, err)
	}
	defer merged.Close()
	fd, err := mount.Root{FD: int(merged.Fd())}.Open(file, unix.O_PATH, 0)
	switch {
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ELOOP):
		return "", api.E("find program", api.NotFound, file, err)
	case err != nil:
		return "", api.E("find program", "", file, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", api.E("find program", "", file, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o111 == 0 {
		return "", api.E("find program", api.NotFound, file, fmt.Errorf("it is not an executable file"))
	}
	// The kernel knows the name by which the file was found in the end.
	found, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	return path.Base(found), api.E("find program", "", file, err)
}
