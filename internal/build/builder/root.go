package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/continuity/fs"
	"github.com/moby/buildkit/executor"
	"github.com/moby/sys/mountinfo"

	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/undo"
)

// madeByRuntime are the mount points of every container: where an image has none, the
// step must leave none.
var madeByRuntime = []string{"/proc", "/dev", "/sys", "/etc/hostname"}

// root gives a step its root filesystem. BuildKit has it mounted, for its own processes
// and with the ids as they are on disk; that mount is taken away while the step has the
// same layers with its own ids, and made again to remove the mount points that the
// runtime has made.
func (x *runner) root(ctx context.Context, p *instance.Prepared, root executor.Mount, mounts []executor.Mount, m *executor.Meta, u *undo.Stack) error {
	one, err := mountOf(ctx, root, "its root", u)
	if err != nil {
		return err
	}
	if one.Type == "overlay" { // read-only
		return x.readOnlyRoot(p, parseStack(one.Options))
	}
	if root.Readonly || m.ReadonlyRootFS {
		return x.readOnlyRoot(p, stack{lower: []string{one.Source}})
	}
	st, mounted, err := x.stackAt(one.Source)
	if err != nil {
		return err
	}
	clean := executor.MountStubsCleaner(ctx, one.Source, stubs(mounts), m.RemoveMountStubsRecursive)
	if err := makeDir(one.Source, p.Process.WorkingDir); err != nil {
		return err
	}
	if mounted {
		if err := makeWay(st, one.Source); err != nil {
			return err
		}
	}
	u.Add(func(context.Context) error {
		err := again(st, one.Source, mounted)
		if err == nil {
			clean()
		}
		return err
	})
	p.Rootfs.Layers, p.Rootfs.Upper, p.Rootfs.Work = bottomFirst(st.lower), st.upper, st.work
	p.Rootfs.Whole = true
	if len(st.lower) == 0 { // FROM scratch: overlayfs wants a lower layer
		p.Rootfs.Layers, err = x.emptyLayer(p)
	}
	return err
}

// stackAt returns the layers of what BuildKit has mounted at dir, or dir itself where
// nothing is: what has no layer below.
func (x *runner) stackAt(dir string) (st stack, mounted bool, err error) {
	infos, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(dir))
	if err != nil {
		return st, false, err
	}
	if len(infos) == 0 {
		return stack{upper: dir, work: filepath.Join(filepath.Dir(dir), "work")}, false, nil
	}
	top := infos[len(infos)-1]
	upper := parseStack(strings.Split(top.VFSOptions, ",")).upper
	st, ok := x.snapshots.of(upper)
	if top.FSType != "overlay" || !ok {
		return st, false, fmt.Errorf("what is mounted at %s is no overlay of this builder's", dir)
	}
	return st, true, nil
}

// makeWay takes an overlay away that BuildKit has mounted at dir.
func makeWay(st stack, dir string) error {
	if err := mount.Unmount(dir, 0); err != nil {
		return err
	}
	return st.renew()
}

// again mounts an overlay where BuildKit had it.
func again(st stack, dir string, mounted bool) error {
	if err := st.renew(); err != nil || !mounted {
		return err
	}
	return mount.All([]mount.Mount{st.mount()}, dir)
}

// readOnlyRoot is a root filesystem that the step may not write to.
func (x *runner) readOnlyRoot(p *instance.Prepared, st stack) error {
	p.Spec.Security.ReadOnly = true
	p.Rootfs.Layers = bottomFirst(st.lower)
	p.Rootfs.Upper, p.Rootfs.Work = filepath.Join(p.Dir, "upper"), filepath.Join(p.Dir, "work")
	return errors.Join(os.Mkdir(p.Rootfs.Upper, 0o755), os.Mkdir(p.Rootfs.Work, 0o711))
}

// emptyLayer makes a layer with nothing in it.
func (x *runner) emptyLayer(p *instance.Prepared) ([]string, error) {
	dir := filepath.Join(p.Dir, "empty")
	return []string{dir}, os.Mkdir(dir, 0o755)
}

func bottomFirst(lower []string) []string {
	layers := slices.Clone(lower)
	slices.Reverse(layers)
	return layers
}

// stubs are the mounts whose mount points must not stay.
func stubs(mounts []executor.Mount) []executor.Mount {
	list := slices.Clone(mounts)
	for _, dest := range madeByRuntime {
		list = append(list, executor.Mount{Dest: dest})
	}
	return list
}

// makeDir makes the working directory of a step, which docker builds do not need to.
func makeDir(root, dir string) error {
	path, err := fs.RootPath(root, dir)
	if err != nil {
		return fmt.Errorf("working directory %s: %w", dir, err)
	}
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	return os.MkdirAll(path, 0o755)
}

func callRelease(release func() error) error {
	if release == nil {
		return nil
	}
	return release()
}
