package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/bundle"
	"github.com/berthcloud/berth/internal/oci/criu"
	"github.com/berthcloud/berth/internal/oci/hook"
	"github.com/berthcloud/berth/internal/oci/mount"
	"github.com/berthcloud/berth/internal/oci/stage"
	"github.com/berthcloud/berth/internal/oci/wire"
	"github.com/berthcloud/berth/internal/undo"
)

// RestoreOptions says how a container is made of files that Checkpoint wrote.
type RestoreOptions struct {
	CreateOptions // PreserveFDs, NoNewKeyring and NoPivot do not apply
	CRIU          criu.Options
}

// Restore makes a container of the files in CRIU.ImagesDir, and of the bundle that
// it was made of at first. Its processes go on where they were; the first is a child
// of the caller's. When it fails, nothing is left behind.
func (r *Runtime) Restore(ctx context.Context, o RestoreOptions) (c *Container, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("CRIU needs root, and so does a restore")
	}
	if err := makeDirs(&o.CRIU); err != nil {
		return nil, err
	}
	d, err := r.reserve(o.ID)
	if err != nil {
		return nil, err
	}
	var u undo.Stack
	defer u.Run(ctx, &err)
	k := &creator{rt: r, o: o.CreateOptions, b: o.Bundle, dir: d, undo: &u, exe: -1, userns: -1, listen: -1}
	u.Add(func(context.Context) error { k.poststop(); return nil })
	u.Add(func(context.Context) error { return d.remove() })
	if err := k.restore(&o.CRIU); err != nil {
		return nil, fmt.Errorf("%s: %w", o.ID, err)
	}
	u.Release()
	d.unlock()
	return &Container{rt: r, path: d.path, rec: k.rec, group: k.group}, nil
}

func (k *creator) restore(o *criu.Options) error {
	defer func() { wire.CloseAll([]int{k.userns}) }()
	for _, step := range []func() error{
		k.prepareCgroups, k.makeRecord, k.keepConfig,
		func() error { return k.inheritStreams(o) },
		func() error { return k.giveImages(o.ImagesDir) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	if k.group != nil {
		o.CgroupRoots = k.group.Roots()
	}
	pid, err := k.revive(o)
	if err != nil {
		return err
	}
	k.undo.Add(func(context.Context) error {
		_ = unix.Kill(pid, unix.SIGKILL) // our own unreaped child
		_, err := unix.Wait4(pid, nil, 0, nil)
		return err
	})
	return k.publish(pid)
}

// inheritStreams says which of the container's standard streams become ours.
func (k *creator) inheritStreams(o *criu.Options) error {
	b, err := os.ReadFile(filepath.Join(o.ImagesDir, streamsFile))
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("--image-path: %s holds no checkpoint; berth-oci checkpoint writes one", o.ImagesDir)
	}
	var streams []string
	if err == nil {
		err = json.Unmarshal(b, &streams)
	}
	if err != nil {
		return fmt.Errorf("--image-path: %s: %w", streamsFile, err)
	}
	o.Inherit = map[string]int{}
	for fd, name := range streams {
		for _, kind := range []string{"pipe:[", "socket:[", "file[", "tty["} {
			if strings.HasPrefix(name, kind) && fd <= 2 {
				o.Inherit[name] = fd
			}
		}
	}
	return nil
}

// giveImages makes the files of a checkpoint those of the container's root, where that
// is not the host's: CRIU reads them from within the container's user namespace. It looks
// for the time namespace's before the ids in there are mapped, or after (CRIU 3.17.1,
// restore_task_with_children): with the group of the host's root, or as their owner.
func (k *creator) giveImages(dir string) error {
	if len(k.b.Spec.Linux.UIDMappings) == 0 {
		return nil
	}
	uid, gid := rootIDs(k.b.Spec)
	const generations = 1000 // of pre-dumps, each the "parent" of the next
	for range generations {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err == nil {
			err = giveBoth(dir, uid, 0o010, 0)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			switch {
			case err != nil || !e.Type().IsRegular():
			case strings.HasPrefix(e.Name(), "timens-"):
				err = giveBoth(path, uid, 0o040, unix.O_NOFOLLOW)
			default:
				err = os.Lchown(path, uid, gid)
			}
		}
		if err != nil {
			return fmt.Errorf("--image-path: %w", err)
		}
		dir = filepath.Join(dir, "parent")
	}
	return nil
}

// giveBoth gives a file or directory to an owner, and to the group of the host's root with
// more of a mode. flags are for opening it.
func giveBoth(path string, uid int, more os.FileMode, flags int) error {
	f, err := os.OpenFile(path, os.O_RDONLY|flags, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return errors.Join(f.Chown(uid, os.Getegid()), f.Chmod(info.Mode().Perm()|more))
}

// revive has CRIU make the processes. It starts in a mount namespace of its own, in
// which the mounts that the container gets from outside lie ready: none of them
// appears on the host, so none can stay there.
func (k *creator) revive(o *criu.Options) (pid int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked: the thread gets another mount namespace, and ends with the
		// goroutine.
		runtime.LockOSThread()
		if err = ownMounts(); err == nil {
			pid, err = criu.Do(criu.Restore, o, criu.Hooks{
				Prepare: func() error { return k.layOut(o) }, Started: k.enterCgroups, Event: k.restoring,
			})
		}
	}()
	<-done
	for _, f := range o.Pass {
		f.Close()
	}
	return pid, err
}

// ownMounts gives this thread a mount namespace of its own, from which no mount gets
// to the host.
func ownMounts() error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	return os.NewSyscallError("make the host's mounts slaves", unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""))
}

// enterCgroups makes the cgroups, with CRIU in them: its children are to be born there.
func (k *creator) enterCgroups(pid int) error {
	if err := k.settleCgroups(pid); err != nil || k.group == nil {
		return err
	}
	return k.group.Enter(pid)
}

// layoutDir is where a new mount namespace gets a tmpfs for what lies ready. CRIU
// goes there from within the container's user namespace too, which may not search
// directories of the runtime's. CRIU has its own mounts and files there, too.
const layoutDir = "/tmp"

// layOut mounts the root filesystem and what is external to the container. All that
// is on the host is opened before.
func (k *creator) layOut(o *criu.Options) (err error) {
	s := k.b.Spec
	if len(s.Linux.UIDMappings) > 0 {
		// The container's own namespace does not exist yet; one with its maps serves.
		if k.userns, err = mapsNamespace(s.Linux.UIDMappings, s.Linux.GIDMappings); err != nil {
			return err
		}
	}
	p := &planner{b: k.b, userns: k.userns, group: k.group}
	defer p.close()
	var plan stage.Init
	if err := p.filesystem(&plan); err != nil {
		return err
	}
	for i := range plan.Mounts {
		if m := &plan.Mounts[i]; m.Bind != nil { // left to a process that there is none of
			fd, _, err := mount.Bind(m.Source, *m.Bind, -1)
			if err != nil {
				return fmt.Errorf("%s: %w", m.Field, err)
			}
			m.File = p.send(fd)
		}
	}
	if o.Pass, err = openNamespaceFiles(s); err != nil {
		return err
	}
	if err := unix.Mount("restore", layoutDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=1777"); err != nil {
		return os.NewSyscallError("mount", err)
	}
	l := layout{files: p.files, o: o}
	if o.Root, err = l.place(plan.RootFile); err != nil {
		return err
	}
	return l.external(s, &plan)
}

// openNamespaceFiles opens the namespaces that are not the container's own.
func openNamespaceFiles(s *specs.Spec) (map[string]*os.File, error) {
	paths, err := namespaceFiles(s)
	if err != nil {
		return nil, err
	}
	files := map[string]*os.File{}
	for name, path := range paths {
		if files[name], err = os.Open(path); err != nil {
			return nil, fmt.Errorf("linux.namespaces: %w", err)
		}
	}
	return files, nil
}

// layout is where mounts lie ready for CRIU, in layoutDir.
type layout struct {
	files []int // detached mounts
	o     *criu.Options
}

// place attaches a detached mount, and returns where.
func (l *layout) place(index int) (string, error) {
	path := filepath.Join(layoutDir, strconv.Itoa(index))
	var st unix.Stat_t
	err := unix.Fstat(l.files[index], &st)
	switch {
	case err != nil:
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		err = os.Mkdir(path, 0o700)
	default:
		err = os.WriteFile(path, nil, 0o600)
	}
	if err == nil {
		err = os.NewSyscallError("move_mount", unix.MoveMount(l.files[index], "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH))
	}
	return path, err
}

// external tells CRIU where what was external to the container lies now.
func (l *layout) external(s *specs.Spec, plan *stage.Init) error {
	add := func(dest, source string) { l.o.External = append(l.o.External, "mnt["+dest+"]:"+source) }
	ownCgroups := bundle.Namespace(s, specs.CgroupNamespace) != nil
	for _, m := range plan.Mounts {
		if m.File == stage.None || m.Type == "cgroup" && ownCgroups {
			continue
		}
		path, err := l.place(m.File)
		if err != nil {
			return fmt.Errorf("%s: %w", m.Field, err)
		}
		add(filepath.Clean("/"+m.Dest), path)
	}
	for _, d := range plan.Devices {
		if d.File == stage.None {
			continue
		}
		path, err := l.place(d.File)
		if err != nil {
			return fmt.Errorf("%s: %w", d.Field, err)
		}
		add(d.Path, path)
	}
	return l.masks(plan.Masked, add)
}

// masks covers masked paths again: files with /dev/null, directories with an empty,
// read-only tmpfs.
func (l *layout) masks(paths []string, add func(dest, source string)) error {
	empty := filepath.Join(layoutDir, "empty")
	if err := os.Mkdir(empty, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", empty, "tmpfs", unix.MS_RDONLY, "nr_inodes=1,mode=000"); err != nil {
		return os.NewSyscallError("mount", err)
	}
	for _, path := range paths {
		// What is masked is of procfs or sysfs, which are alike on the host.
		if st, err := os.Stat(path); err == nil && st.IsDir() {
			add(path, empty)
		} else {
			add(path, "/dev/null")
		}
	}
	return nil
}

// restoring answers what CRIU notifies of.
func (k *creator) restoring(e criu.Event) error {
	if e.File >= 0 {
		defer unix.Close(e.File)
	}
	switch e.Name {
	case "setup-namespaces": // they exist; nothing runs in them yet
		h := k.b.Spec.Hooks
		if h == nil || len(h.Prestart)+len(h.CreateRuntime) == 0 {
			return nil
		}
		k.hooked = true
		k.rec.Pid = e.Pid
		c := Container{rec: k.rec}
		state, err := c.document(specs.StateCreating)
		if err == nil {
			err = hook.Run("prestart", h.Prestart, state)
		}
		if err == nil {
			err = hook.Run("createRuntime", h.CreateRuntime, state)
		}
		return err
	case "orphan-pts-master": // of the container's terminal
		if k.o.Console < 0 || e.File < 0 {
			return errors.New("process.terminal: is set, so a --console-socket is needed to send the terminal to")
		}
		return unix.Sendmsg(k.o.Console, []byte("/dev/ptmx"), unix.UnixRights(e.File), nil, unix.MSG_NOSIGNAL)
	}
	return nil
}
