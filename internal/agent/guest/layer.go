package guest

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/agent"
	"github.com/berthcloud/berth/internal/pack"
)

// layer writes what was changed in a tree since the machine's first boot.
func (m *machine) layer(r *agent.Request, w io.Writer) (err error) {
	disk := int(m.disk.Fd())
	if m.config.Disk {
		if err := unix.IoctlSetInt(disk, fiFreeze, 0); err != nil {
			return os.NewSyscallError("freeze the disk", err)
		}
		defer func() { err = errors.Join(err, os.NewSyscallError("thaw the disk", unix.IoctlSetInt(disk, fiThaw, 0))) }()
	}
	options := pack.Options{Upper: true, Leave: given, Names: r.NamesOnly, Exact: r.Exact}
	name := "upper"
	if r.Part > 0 {
		name, options.Leave, options.Root = upperOf(r.Part), nil, true
	}
	upper, err := unix.Openat(disk, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open the writable layer", err)
	}
	defer unix.Close(upper)
	out := tar.NewWriter(w)
	if err := pack.Tree(context.Background(), out, upper, "", options); err != nil {
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
