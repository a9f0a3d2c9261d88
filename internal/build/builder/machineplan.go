package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/build"
	"github.com/berthcloud/berth/internal/instance"
	ocimount "github.com/berthcloud/berth/internal/oci/mount"
	"github.com/berthcloud/berth/internal/undo"
)

// What a step's VM is like, whose memory and disk take of the host's what is used of them.
const (
	machineMemory = 4 << 30 // bytes, and no more than half of the host's
	machineDisk   = 64 << 30
)

// prepareMachine acquires what a step in a VM needs, as prepare does for a container.
func (x *runner) prepareMachine(ctx context.Context, id string, root executor.Mount, mounts []executor.Mount, process executor.ProcessInfo, u *undo.Stack) (*machineStep, error) {
	m := process.Meta
	if err := possible(&m); err != nil {
		return nil, err
	}
	if m.NetMode == pb.NetMode_HOST {
		return nil, errors.New("--network=host: a step in a VM cannot share the host's network; use default or none")
	}
	run, dir := filepath.Join(x.config.StepsDir(), id[:12]), filepath.Join(x.config.Tmp(), id[:12])
	got, err := x.begin(ctx, id, &m, u, run, dir)
	if err != nil {
		return nil, err
	}
	s := &machineStep{Prepared: planMachine(id, run, dir, x.config.Cgroup, &m, got, x.config.Host)}
	for _, one := range mounts {
		if err := x.mountMachine(ctx, s, one, u); err != nil {
			return nil, fmt.Errorf("mount %s: %w", one.Dest, err)
		}
	}
	if err := x.rootMachine(ctx, s, root, mounts, &m, u); err != nil {
		return nil, err
	}
	return s, record(s.Prepared)
}

// planMachine says what the VM of a step is, but for its filesystems. What the step runs
// it is told when it runs: an environment may hold secrets, which are not to be on a disk.
func planMachine(id, run, dir, cgroup string, m *executor.Meta, got build.Step, host instance.Host) *instance.Prepared {
	p := plan(id, run, cgroup, m, got)
	p.Dir, p.Idle, p.Step, p.Kernel = dir, true, true, got.Kernel
	p.Process = instance.Process{}
	p.Spec.Kind = api.VM
	p.Spec.Limits.CPUs, p.Spec.Limits.Memory = float64(host.CPUs), machineMemory
	if half := host.Memory / 2; half > 0 && half < machineMemory {
		p.Spec.Limits.Memory = half &^ (1<<20 - 1)
	}
	p.Spec.Security.CapDrop = []string{"MKNOD"} // with which a container could make no device either
	p.Rootfs.Disk, p.Rootfs.DiskSize = filepath.Join(dir, "root.raw"), machineDisk
	return p
}

// rootMachine gives a VM its root filesystem.
func (x *runner) rootMachine(ctx context.Context, s *machineStep, root executor.Mount, mounts []executor.Mount, m *executor.Meta, u *undo.Stack) error {
	one, err := mountOf(ctx, root, "its root", u)
	if err != nil {
		return err
	}
	if one.Type == "overlay" { // read-only
		s.Spec.Security.ReadOnly = true
		return x.layersMachine(ctx, s, parseStack(one.Options))
	}
	st, _, err := x.stackAt(one.Source)
	if err != nil {
		return err
	}
	if root.Readonly || m.ReadonlyRootFS {
		s.Spec.Security.ReadOnly = true
	} else {
		s.root = one.Source
		clean := executor.MountStubsCleaner(ctx, one.Source, stubs(mounts), m.RemoveMountStubsRecursive)
		u.Add(func(context.Context) error { clean(); return nil })
	}
	return x.layersMachine(ctx, s, st)
}

// layersMachine makes the layers of a stack those of a VM, as images.
func (x *runner) layersMachine(ctx context.Context, s *machineStep, st stack) error {
	for _, dir := range bottomFirst(st.lower) {
		image, ok := x.snapshots.layers.imageAt(dir)
		if !ok {
			var err error
			if image, err = x.trees.ofSnapshot(ctx, dir); err != nil {
				return err
			}
		}
		s.Rootfs.Layers = append(s.Rootfs.Layers, image)
	}
	// The uppermost changes still. Most often it has nothing yet, which is a layer only
	// where there is no other.
	if st.upper == "" {
		return nil
	}
	list, err := os.ReadDir(st.upper)
	if err != nil || len(list) == 0 && len(st.lower) > 0 {
		return err
	}
	tree, err := openTree(st.upper)
	if err != nil {
		return err
	}
	defer tree.Close()
	image := filepath.Join(s.Dir, "upper.erofs")
	s.Rootfs.Layers = append(s.Rootfs.Layers, image)
	return x.trees.image(ctx, tree, "", image)
}

// entryName is the name of a mounted file in its image.
const entryName = "file"

// mountMachine adds one of a step's own mounts: RUN --mount.
func (x *runner) mountMachine(ctx context.Context, s *machineStep, one executor.Mount, u *undo.Stack) error {
	m, err := mountOf(ctx, one, "it", u)
	if err != nil {
		return err
	}
	if m.Type == "tmpfs" {
		added, err := tmpfs(one.Dest, m.Options, s.Spec.Limits.Memory)
		s.Mounts = append(s.Mounts, added)
		return err
	}
	source := m.Source
	if m.Type == "overlay" { // read-only, not mounted yet
		if source, err = x.viewMachine(m, u); err != nil {
			return err
		}
	}
	tree, err := openIn(source, one.Selector)
	if err != nil {
		return err
	}
	u.Add(func(context.Context) error { return tree.Close() })
	var st unix.Stat_t
	if err := unix.Fstat(int(tree.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	image := filepath.Join(s.Dir, fmt.Sprintf("mount-%d.erofs", len(s.Mounts)))
	add := instance.Mount{Type: api.MountBind, Image: image, Target: one.Dest, ReadOnly: one.Readonly}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if !one.Readonly {
			s.changes = append(s.changes, changed{len(s.Mounts), opened(tree)})
		}
	case unix.S_IFREG:
		if inMemory(tree) { // a secret, which is to be on no disk
			s.files = append(s.files, placed{opened(tree), one.Dest})
			return nil
		}
		add.Entry = entryName
	case unix.S_IFSOCK:
		return errors.New("type=ssh: a step in a VM has no ssh agent; take a key as --mount=type=secret, or leave --vm out")
	default:
		return errors.New(one.Selector + " is neither a file nor a directory")
	}
	s.Mounts = append(s.Mounts, add)
	return x.trees.image(ctx, tree, add.Entry, image)
}

// openIn finds a path as whoever has root as root sees it, and keeps it: what a path leads
// to another step may change. A root without a path may be a file.
func openIn(root, path string) (*os.File, error) {
	tree, err := openTree(root)
	if err != nil || path == "" || path == "/" {
		return tree, err
	}
	defer tree.Close()
	fd, err := ocimount.Root{FD: int(tree.Fd())}.Open(path, unix.O_PATH, 0)
	if err != nil {
		return nil, errors.New("there is no " + path + " in what it comes from")
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openTree opens a tree of the builder's own.
func openTree(path string) (*os.File, error) { return os.OpenFile(path, unix.O_PATH, 0) }

// opened is a path of an open file, whatever its names lead to meanwhile.
func opened(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// inMemory reports whether a file is kept in memory.
func inMemory(f *os.File) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(int(f.Fd()), &st) == nil && st.Type == unix.TMPFS_MAGIC
}

// viewMachine mounts layers for as long as a step is prepared and runs, and returns where.
func (x *runner) viewMachine(m mount.Mount, u *undo.Stack) (string, error) {
	dir, err := os.MkdirTemp(x.config.Tmp(), "view")
	if err != nil {
		return "", err
	}
	u.Add(func(context.Context) error { return os.Remove(dir) })
	if err := mount.All([]mount.Mount{m}, dir); err != nil {
		return "", err
	}
	u.Add(func(context.Context) error { return mount.Unmount(dir, unix.MNT_DETACH) })
	return dir, nil
}
