package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/continuity/fs"
	"github.com/docker/go-units"
	"github.com/moby/buildkit/executor"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	ocimount "github.com/berthcloud/berth/internal/oci/mount"
	"github.com/berthcloud/berth/internal/undo"
)

// mountOf returns the one mount that something of a step's is made of, until it is undone.
// The name is for an error.
func mountOf(ctx context.Context, what executor.Mount, name string, u *undo.Stack) (mount.Mount, error) {
	mountable, err := what.Src.Mount(ctx, what.Readonly)
	if err != nil {
		return mount.Mount{}, err
	}
	list, release, err := mountable.Mount()
	if err != nil {
		return mount.Mount{}, err
	}
	u.Add(func(context.Context) error { return callRelease(release) })
	if len(list) != 1 {
		return mount.Mount{}, fmt.Errorf("%s is made of %d mounts", name, len(list))
	}
	return list[0], nil
}

// mount adds one of a step's own mounts: RUN --mount.
func (x *runner) mount(ctx context.Context, p *instance.Prepared, one executor.Mount, u *undo.Stack) error {
	m, err := mountOf(ctx, one, "it", u)
	if err != nil {
		return err
	}
	if m.Type == "tmpfs" {
		added, err := tmpfs(one.Dest, m.Options, x.config.Host.Memory)
		p.Mounts = append(p.Mounts, added)
		return err
	}
	source, err := x.source(ctx, p, m, u)
	if err != nil {
		return err
	}
	// The path is looked up as whoever mounts it sees it: a symbolic link in it leads
	// nowhere else.
	source, err = fs.RootPath(source, one.Selector)
	if err != nil {
		return err
	}
	info, err := os.Lstat(source)
	if err != nil {
		return errors.New("there is no " + one.Selector + " in what it comes from")
	}
	if info.Mode().IsRegular() && one.Selector == "" { // a secret
		if err := x.give(ctx, p, source); err != nil {
			return err
		}
	}
	p.Mounts = append(p.Mounts, instance.Mount{Type: api.MountBind, Source: source, Target: one.Dest, ReadOnly: one.Readonly})
	return nil
}

// give gives the step a file that BuildKit has made for it in memory where the kernel maps
// no ids there, as none does on a tmpfs before Linux 6.3: the step's root could not read it.
func (x *runner) give(ctx context.Context, p *instance.Prepared, file string) error {
	if x.config.Host.Rootless() { // its ids are the builder's
		return nil
	}
	users, err := userNamespace(ctx, p.Users)
	if err != nil {
		return err
	}
	defer users.Close()
	fd, _, err := ocimount.Bind(file, ocimount.Options{IDMap: true}, int(users.Fd()))
	if err == nil {
		return unix.Close(fd)
	}
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(file, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: file, Err: err}
	}
	return os.Lchown(file, int(p.Users.First+st.Uid), int(p.Users.First+st.Gid))
}

// source is where a mount is found that has the step's ids, or can be given them.
func (x *runner) source(ctx context.Context, p *instance.Prepared, m mount.Mount, u *undo.Stack) (string, error) {
	if m.Type == "overlay" { // read-only, not mounted yet
		return x.view(ctx, p, parseStack(m.Options), u)
	}
	st, mounted, err := x.stackAt(m.Source)
	if err != nil || !mounted {
		return m.Source, err
	}
	// Writable layers, which BuildKit has mounted: as with the root filesystem, that
	// mount makes way.
	if err := makeWay(st, m.Source); err != nil {
		return "", fmt.Errorf("another step uses it; give it sharing=locked: %w", err)
	}
	u.Add(func(context.Context) error { return again(st, m.Source, true) })
	return x.view(ctx, p, st, u)
}

// tmpfs is a filesystem in memory, of half the host's where nothing is said, as the
// kernel has it.
func tmpfs(dest string, options []string, memory int64) (instance.Mount, error) {
	m := instance.Mount{Type: api.MountTmpfs, Target: dest, Size: memory / 2, Mode: 0o1777, Exec: true}
	for _, o := range options {
		switch key, value, _ := strings.Cut(o, "="); key {
		case "ro":
			m.ReadOnly = true
		case "size":
			size, err := units.RAMInBytes(value)
			if err != nil {
				return m, err
			}
			m.Size = size
		}
	}
	return m, nil
}

// view mounts layers with the step's ids, and returns where. The mount ends with the
// step.
func (x *runner) view(ctx context.Context, p *instance.Prepared, st stack, u *undo.Stack) (string, error) {
	dir, err := os.MkdirTemp(x.config.Tmp(), "view")
	if err != nil {
		return "", err
	}
	u.Add(func(context.Context) error { return os.Remove(dir) })
	if x.config.Host.Rootless() { // its ids are the builder's
		if err := mount.All([]mount.Mount{st.mount()}, dir); err != nil {
			return "", err
		}
		u.Add(func(context.Context) error { return mount.Unmount(dir, unix.MNT_DETACH) })
		return dir, nil
	}
	users, err := userNamespace(ctx, p.Users)
	if err != nil {
		return "", err
	}
	defer users.Close()
	ov := ocimount.Overlay{Lower: st.lower, Upper: st.upper, Work: st.work, IDMap: p.Users.Size > 0}
	fd, err := ov.Mount(int(users.Fd()), int(p.Users.First), int(p.Users.First))
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return "", &os.PathError{Op: "move_mount", Path: dir, Err: err}
	}
	u.Add(func(context.Context) error { return mount.Unmount(dir, unix.MNT_DETACH) })
	return dir, nil
}

// mount is the overlay for the builder's own processes.
func (st *stack) mount() mount.Mount {
	options := append(slices.Clone(st.more), "lowerdir="+strings.Join(st.lower, ":"))
	if st.upper != "" {
		options = append(options, "upperdir="+st.upper, "workdir="+st.work)
	}
	return mount.Mount{Type: "overlay", Source: "overlay", Options: options}
}
