package guest

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/pack"
)

// layer writes what was changed in the root filesystem since the machine's first boot.
func (m *machine) layer(namesOnly bool, w io.Writer) (err error) {
	disk := int(m.disk.Fd())
	if m.config.Disk {
		if err := unix.IoctlSetInt(disk, fiFreeze, 0); err != nil {
			return os.NewSyscallError("freeze the disk", err)
		}
		defer func() { err = errors.Join(err, os.NewSyscallError("thaw the disk", unix.IoctlSetInt(disk, fiThaw, 0))) }()
	}
	upper, err := unix.Openat(disk, "upper", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open the writable layer", err)
	}
	defer unix.Close(upper)
	out := tar.NewWriter(w)
	err = pack.Tree(context.Background(), out, upper, "", pack.Options{Upper: true, Leave: given, Names: namesOnly})
	if err != nil {
		return err
	}
	return out.Close()
}

// given reports whether a file is not the user's work: what furnish writes at every
// boot, and where shares are mounted aside.
func given(name string) bool {
	switch name {
	case "etc/hostname", "etc/hosts", "etc/resolv.conf":
		return true
	}
	return strings.HasPrefix(name, strings.TrimPrefix(shareAside, "/"))
}
