package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/bundle"
	"github.com/berthcloud/berth/internal/oci/cgroup"
	"github.com/berthcloud/berth/internal/oci/mount"
	"github.com/berthcloud/berth/internal/oci/stage"
	"github.com/berthcloud/berth/internal/oci/wire"
)

// planner makes the plan for the container's first process, and opens what it needs on
// the host: the process, in the container's user namespace, could not.
type planner struct {
	b      *bundle.Bundle
	userns int // the container's user namespace, or -1
	group  *cgroup.Group
	boxed  bool   // see isBoxed
	label  string // SELinux context of the mounts, "" where the kernel has no SELinux

	files []int // what is sent along, by index
}

func (p *planner) close() { wire.CloseAll(p.files) }

// send adds a descriptor and returns its index.
func (p *planner) send(fd int) int {
	p.files = append(p.files, fd)
	return len(p.files) - 1
}

// filesystem fills in everything about mounts, devices and paths.
func (p *planner) filesystem(plan *stage.Init) error {
	s := p.b.Spec
	plan.RootProp = mount.Propagation(s.Linux.RootfsPropagation)
	plan.Masked, plan.ReadOnly = s.Linux.MaskedPaths, s.Linux.ReadonlyPaths
	plan.RootRO = s.Root != nil && s.Root.Readonly
	plan.Chroot = bundle.Namespace(s, specs.MountNamespace) == nil
	if err := p.root(plan); err != nil {
		return err
	}
	if plan.Chroot {
		return nil
	}
	if err := p.mounts(plan); err != nil {
		return err
	}
	if err := p.devices(plan); err != nil {
		return err
	}
	plan.Links = append(plan.Links,
		stage.Link{Path: "/dev/fd", Target: "/proc/self/fd"},
		stage.Link{Path: "/dev/stdin", Target: "/proc/self/fd/0"},
		stage.Link{Path: "/dev/stdout", Target: "/proc/self/fd/1"},
		stage.Link{Path: "/dev/stderr", Target: "/proc/self/fd/2"},
		stage.Link{Path: "/dev/ptmx", Target: "pts/ptmx"},
	)
	return nil
}

// rootPath returns the directory of a plain bundle's root filesystem.
func rootPath(b *bundle.Bundle) string {
	if b.Spec.Root == nil || b.Spec.Root.Path == "" {
		return ""
	}
	if filepath.IsAbs(b.Spec.Root.Path) {
		return filepath.Clean(b.Spec.Root.Path)
	}
	return filepath.Join(b.Dir, b.Spec.Root.Path)
}

func (p *planner) root(plan *stage.Init) error {
	if bundle.RootOverlay(p.b.Spec) {
		ov, err := mount.ParseOverlay(p.b.Spec.Mounts[0].Options)
		if err != nil {
			return fmt.Errorf("mounts[0]: %w", err)
		}
		uid, gid := rootIDs(p.b.Spec)
		fd, err := ov.Mount(p.userns, uid, gid)
		if err != nil {
			return fmt.Errorf("mounts[0]: %w", err)
		}
		plan.RootFile = p.send(fd)
		return nil
	}
	path := rootPath(p.b)
	if plan.Chroot {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf(`root.path: %s: %w (config.md: "A directory MUST exist at the path declared by the field")`, path, err)
		}
		plan.RootFile = p.send(fd)
		return nil
	}
	fd, dir, err := mount.Bind(path, mount.Options{Recursive: true}, -1)
	if err != nil {
		return fmt.Errorf(`root.path: %w (config.md: "A directory MUST exist at the path declared by the field")`, err)
	}
	plan.RootFile = p.send(fd)
	if !dir {
		return fmt.Errorf(`root.path: %s: not a directory (config.md: "A directory MUST exist at the path declared by the field")`, path)
	}
	return nil
}

// rootIDs returns what the container's ids 0 are on the host.
func rootIDs(s *specs.Spec) (uid, gid int) {
	find := func(list []specs.LinuxIDMapping) int {
		for _, m := range list {
			if m.ContainerID == 0 {
				return int(m.HostID)
			}
		}
		return 0
	}
	return find(s.Linux.UIDMappings), find(s.Linux.GIDMappings)
}

func (p *planner) mounts(plan *stage.Init) error {
	for i := range p.b.Spec.Mounts {
		m := &p.b.Spec.Mounts[i]
		if i == 0 && bundle.RootOverlay(p.b.Spec) {
			continue
		}
		field := fmt.Sprintf("mounts[%d]", i)
		o, err := mount.ParseOptions(m.Options)
		if err != nil {
			return fmt.Errorf("%s.options: %w", field, err)
		}
		switch {
		case o.Bind || m.Type == "bind":
			err = p.bind(plan, field, m, o)
		case m.Type == "sysfs" && p.foreignNetwork():
			err = p.hostSysfs(plan, field, m, o)
		case m.Type == "cgroup" || m.Type == "cgroup2":
			err = p.cgroups(plan, field, m, o)
		default:
			p.filesystemMount(plan, field, m, o)
		}
		if err != nil {
			return fmt.Errorf("%s (%s): %w", field, m.Destination, err)
		}
	}
	return nil
}

func (p *planner) bind(plan *stage.Init, field string, m *specs.Mount, o mount.Options) error {
	source := m.Source
	if source == "" {
		return fmt.Errorf("source: missing")
	}
	if !filepath.IsAbs(source) {
		source = filepath.Join(p.b.Dir, source)
	}
	w := stage.Mount{Dest: m.Destination, Field: field, Type: "bind", Source: source}
	if len(m.UIDMappings) == 0 {
		return p.clone(plan, w, o, p.userns)
	}
	fd, err := mapsNamespace(m.UIDMappings, m.GIDMappings)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	o.IDMap = true
	return p.clone(plan, w, o, fd)
}

// clone plans a bind mount of w.Source. The process clones it when its turn comes,
// because /proc/self/mountinfo lists mounts in the order in which they were made (Linux
// 6.8), and that should be the order of the specification. The runtime does it where
// the process cannot: to map ids, and where it, in a user namespace or in a mount
// namespace that existed before, may not reach the source or would find another.
func (p *planner) clone(plan *stage.Init, w stage.Mount, o mount.Options, userns int) error {
	w.File = stage.None
	if !hasUserNamespace(p.b.Spec) && !o.IDMap && bundle.Namespace(p.b.Spec, specs.MountNamespace).Path == "" {
		w.Bind = &o
		plan.Mounts = append(plan.Mounts, w)
		return nil
	}
	fd, dir, err := mount.Bind(w.Source, o, userns)
	if err != nil {
		return err
	}
	w.File, w.Dir = p.send(fd), dir
	plan.Mounts = append(plan.Mounts, w)
	return nil
}

// foreignNetwork reports whether the container's network namespace belongs to another
// user namespace than its own: the kernel then refuses it a sysfs (sysfs_init_fs_context).
func (p *planner) foreignNetwork() bool {
	net := bundle.Namespace(p.b.Spec, specs.NetworkNamespace)
	return (net == nil || net.Path != "") && (p.boxed || hasUserNamespace(p.b.Spec))
}

// hostSysfs plans the host's sysfs, read-only, in place of one of the container's own.
func (p *planner) hostSysfs(plan *stage.Init, field string, m *specs.Mount, o mount.Options) error {
	o.Recursive, o.Data = true, nil
	o.RecSet |= o.Set | unix.MOUNT_ATTR_RDONLY
	fd, dir, err := mount.Bind("/sys", o, -1)
	if err != nil {
		return err
	}
	plan.Mounts = append(plan.Mounts, stage.Mount{Dest: m.Destination, Field: field, File: p.send(fd), Dir: dir, Type: "bind"})
	return nil
}

// filesystemMount plans a filesystem that the process makes in its namespaces.
func (p *planner) filesystemMount(plan *stage.Init, field string, m *specs.Mount, o mount.Options) {
	w := stage.Mount{
		Dest: m.Destination, Field: field, File: stage.None, Dir: true,
		Type: m.Type, Source: m.Source, Attr: o.Set | o.RecSet, Data: o.Data, Prop: o.Prop, CopyUp: o.CopyUp,
	}
	if w.Type == "" {
		w.Type = "none"
	}
	// What may have to take mount points of later entries is written to first.
	if w.Attr&unix.MOUNT_ATTR_RDONLY != 0 && w.Type == "tmpfs" {
		w.Attr &^= unix.MOUNT_ATTR_RDONLY
		w.LateRO = true
	}
	if label := p.label; label != "" && m.Type != "proc" && m.Type != "sysfs" {
		w.Data = append(append([]string(nil), w.Data...), `context="`+label+`"`)
	}
	plan.Mounts = append(plan.Mounts, w)
}

// cgroups plans what the container sees of its cgroups: on v2 its own directory, on
// v1 a tmpfs with its own directory of each hierarchy. Bind mounts do that with a
// cgroup namespace and without.
func (p *planner) cgroups(plan *stage.Init, field string, m *specs.Mount, o mount.Options) error {
	if p.group == nil {
		// Nothing there is the container's: an empty directory says so.
		plan.Mounts = append(plan.Mounts, stage.Mount{
			Dest: m.Destination, Field: field, File: stage.None, Dir: true, Type: "tmpfs", Source: "tmpfs",
			Attr: o.Set | unix.MOUNT_ATTR_RDONLY, Data: []string{"mode=755", "nr_inodes=1"},
		})
		return nil
	}
	o.Data, o.Recursive = nil, false
	paths := p.group.Paths()
	if cgroup.Unified() {
		return p.clone(plan, stage.Mount{Dest: m.Destination, Field: field, Type: "cgroup", Source: paths[""]}, o, -1)
	}
	plan.Mounts = append(plan.Mounts, stage.Mount{
		Dest: m.Destination, Field: field, File: stage.None, Dir: true, Type: "tmpfs", Source: "tmpfs",
		Attr: o.Set &^ unix.MOUNT_ATTR_RDONLY, Data: []string{"mode=755", "size=64k"}, LateRO: o.Set&unix.MOUNT_ATTR_RDONLY != 0,
	})
	for _, h := range hierarchies(paths) {
		w := stage.Mount{Dest: filepath.Join(m.Destination, h.name), Field: field, Type: "cgroup", Source: h.dir}
		if err := p.clone(plan, w, o, -1); err != nil {
			return err
		}
		for _, alias := range h.aliases {
			plan.Links = append(plan.Links, stage.Link{Path: filepath.Join(m.Destination, alias), Target: h.name})
		}
	}
	return nil
}

// hierarchy is a mounted v1 hierarchy: its directory's name, the container's
// directory in it, and the controllers that go by another name.
type hierarchy struct {
	name, dir string
	aliases   []string
}

// hierarchies finds the name under which each hierarchy is mounted: the element of
// the path after the common root.
func hierarchies(paths map[string]string) []hierarchy {
	byDir := map[string]*hierarchy{}
	for controller, dir := range paths {
		if dir == "" {
			continue
		}
		rel, err := filepath.Rel("/sys/fs/cgroup", dir)
		if err != nil || !filepath.IsLocal(rel) {
			continue
		}
		name := rel
		for filepath.Dir(name) != "." {
			name = filepath.Dir(name)
		}
		h := byDir[dir]
		if h == nil {
			h = &hierarchy{name: name, dir: dir}
			byDir[dir] = h
		}
		if controller != name && controller != "" && controller != "name="+name {
			h.aliases = append(h.aliases, controller)
		}
	}
	list := make([]hierarchy, 0, len(byDir))
	for _, h := range byDir {
		sort.Strings(h.aliases)
		list = append(list, *h)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].name < list[j].name })
	return list
}

// defaultDevices are in every container (config-linux.md, Default Devices).
func defaultDevices() []specs.LinuxDevice {
	return []specs.LinuxDevice{
		{Path: "/dev/null", Type: "c", Major: 1, Minor: 3},
		{Path: "/dev/zero", Type: "c", Major: 1, Minor: 5},
		{Path: "/dev/full", Type: "c", Major: 1, Minor: 7},
		{Path: "/dev/random", Type: "c", Major: 1, Minor: 8},
		{Path: "/dev/urandom", Type: "c", Major: 1, Minor: 9},
		{Path: "/dev/tty", Type: "c", Major: 5, Minor: 0},
	}
}

func (p *planner) devices(plan *stage.Init) error {
	listed := map[string]bool{}
	for i, d := range p.b.Spec.Linux.Devices {
		listed[filepath.Clean(d.Path)] = true
		if err := p.device(plan, fmt.Sprintf("linux.devices[%d]", i), d); err != nil {
			return err
		}
	}
	for _, d := range defaultDevices() {
		if !listed[d.Path] {
			if err := p.device(plan, "default device", d); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *planner) device(plan *stage.Init, field string, d specs.LinuxDevice) error {
	w := stage.Device{Path: filepath.Clean(d.Path), Field: field, File: stage.None, Type: d.Type, Major: d.Major, Minor: d.Minor, Mode: 0o666}
	if d.FileMode != nil {
		w.Mode = uint32(*d.FileMode) & 0o7777
	}
	if d.UID != nil {
		w.UID = *d.UID
	}
	if d.GID != nil {
		w.GID = *d.GID
	}
	if w.Path == "/dev/ptmx" {
		return nil // a link into the container's own devpts, see Links
	}
	if (p.boxed || hasUserNamespace(p.b.Spec)) && d.Type != "p" {
		fd, err := hostDevice(d)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", field, d.Path, err)
		}
		w.File = p.send(fd)
	}
	plan.Devices = append(plan.Devices, w)
	return nil
}

// hostDevice returns a detached bind mount of the host's node of a device, which
// stands in where a user namespace forbids mknod.
func hostDevice(d specs.LinuxDevice) (int, error) {
	class := "char"
	if d.Type == "b" {
		class = "block"
	}
	number := fmt.Sprintf("%s/%d:%d", class, d.Major, d.Minor)
	for _, path := range []string{d.Path, "/dev/" + number} {
		if fd := bindNode(path, d); fd >= 0 {
			return fd, nil
		}
	}
	// The container's name for it may be another, as with docker run --device A:B.
	if fd := bindNode(kernelName(number), d); fd >= 0 {
		return fd, nil
	}
	return -1, fmt.Errorf("a container in a user namespace can only have device nodes of the host, and the host has none for %s %d:%d", class, d.Major, d.Minor)
}

// bindNode returns a detached bind mount of the node at a path, or -1 if there is
// none of the device: its number counts, not its name.
func bindNode(path string, d specs.LinuxDevice) int {
	fd, _, err := mount.Bind(path, mount.Options{}, -1)
	if err != nil {
		return -1
	}
	kind := uint32(unix.S_IFCHR)
	if d.Type == "b" {
		kind = unix.S_IFBLK
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == kind && st.Rdev == unix.Mkdev(uint32(d.Major), uint32(d.Minor)) {
		return fd
	}
	unix.Close(fd)
	return -1
}

// kernelName returns the path of a device's node as the kernel names it, or "".
// number is of the form "char/1:3".
func kernelName(number string) string {
	b, err := os.ReadFile("/sys/dev/" + number + "/uevent")
	if err != nil {
		return ""
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if name, ok := strings.CutPrefix(line, "DEVNAME="); ok {
			return "/dev/" + name
		}
	}
	return ""
}
