package container

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/instance/caps"
	"github.com/berthcloud/berth/internal/oci"
	"github.com/berthcloud/berth/internal/oci/landlock"
)

// Plan returns the container's config.json, indented for people.
func (*Driver) Plan(p *instance.Prepared, host instance.Host) (instance.Plan, error) {
	s, err := plan(p, host)
	if err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(s, "", "  ")
	return append(b, '\n'), api.E("plan", api.Internal, p.Spec.Name, err)
}

// plan translates the run into a specification.
func plan(p *instance.Prepared, host instance.Host) (*specs.Spec, error) {
	invalid := func(format string, args ...any) error {
		return api.E("plan", api.Invalid, p.Spec.Name, fmt.Errorf(format, args...))
	}
	if len(p.Process.Args) == 0 || p.Process.Args[0] == "" {
		return nil, invalid("no command was given and the image has none; name one after the image")
	}
	if len(p.Rootfs.Layers) == 0 {
		return nil, invalid("the image has no layers")
	}
	if p.Users.Size > 0 && !host.UserNamespaces {
		return nil, api.E("plan", api.Unsupported, p.Spec.Name, errors.New("this host's kernel does not allow user namespaces; --userns=host runs without, and with less isolation"))
	}
	if err := cmp.Or(rootlessCannot(p, host), throttleable(p.Spec.Limits, host)); err != nil {
		return nil, api.E("plan", api.Unsupported, p.Spec.Name, err)
	}
	annotations, err := landlocked(p.Spec.Security.Landlock, host.Landlock)
	if err != nil {
		return nil, invalid("landlock: %w", err)
	}
	caps, err := capabilities(p)
	if err != nil {
		return nil, invalid("%w", err)
	}
	limits, err := ulimits(p.Spec.Ulimits)
	if err != nil {
		return nil, invalid("%w", err)
	}
	s := &specs.Spec{
		Version:     oci.SpecVersion(),
		Hostname:    p.Hostname,
		Root:        &specs.Root{Readonly: p.Spec.Security.ReadOnly},
		Mounts:      mounts(p, host),
		Annotations: annotations,
		Process: &specs.Process{
			Terminal:        p.Process.TTY,
			User:            specs.User{Username: p.Process.User},
			Args:            p.Process.Args,
			Env:             environment(&p.Process),
			Cwd:             p.Process.WorkingDir,
			Capabilities:    caps,
			Rlimits:         limits,
			NoNewPrivileges: !p.Spec.Security.NewPrivs,
			OOMScoreAdj:     new(int), // berthd is spared when memory ends, not what it runs
		},
		Linux: &specs.Linux{
			Namespaces:  namespaces(p),
			CgroupsPath: p.Cgroup,
			Resources:   initial(p.Spec.Limits, host),
		},
	}
	if size := p.Process.InitialSize; p.Process.TTY && size.Rows > 0 {
		s.Process.ConsoleSize = &specs.Box{Height: uint(size.Rows), Width: uint(size.Cols)}
	}
	if p.Users.Size > 0 {
		uids, gids := []instance.IDRange{p.Users}, []instance.IDRange{p.Users}
		if host.Rootless() {
			uids, gids = host.UIDs, host.GIDs
		}
		s.Linux.UIDMappings, s.Linux.GIDMappings = mappings(uids), mappings(gids)
	}
	if p.Spec.Init == api.InitReap {
		s.Annotations[oci.InitAnnotation] = oci.InitReap
	}
	bootable(s, p, host.CgroupV2)
	return s, confine(s, p, host)
}

// rootlessCannot says what an ordinary user's daemon has not to give.
func rootlessCannot(p *instance.Prepared, host instance.Host) error {
	if host.Rootless() && p.HostNet {
		return errors.New("an ordinary user's daemon has a network of its own and cannot share the host's; publish ports with -p")
	}
	if err := undelegated(p.Spec.Limits, host); err != nil {
		return err
	}
	return liftable(p.Spec, p.Spec.Limits, host)
}

// mappings maps the ids of a container from 0 to the ranges.
func mappings(ranges []instance.IDRange) []specs.LinuxIDMapping {
	var list []specs.LinuxIDMapping
	next := uint32(0)
	for _, r := range ranges {
		list = append(list, specs.LinuxIDMapping{ContainerID: next, HostID: r.First, Size: r.Size})
		next += r.Size
	}
	return list
}

// landlocked returns annotations that hand the runtime a profile of Landlock, if there is
// one, which this host has to know.
func landlocked(profile string, version int) (map[string]string, error) {
	annotations := map[string]string{}
	if profile == "" {
		return annotations, nil
	}
	p, err := landlock.Parse(profile)
	if err != nil {
		return nil, err
	}
	annotations[landlock.Annotation] = profile
	_, err = p.Domain(version)
	return annotations, err
}

// confine adds the seccomp filter and hides what tells about the host.
func confine(s *specs.Spec, p *instance.Prepared, host instance.Host) error {
	if p.Spec.Security.Unconfined {
		return nil
	}
	s.Linux.MaskedPaths = append(oci.MaskedPaths(), host.ThermalThrottle...)
	s.Linux.ReadonlyPaths = oci.ReadonlyPaths()
	profile, err := seccomp.GetDefaultProfile(s)
	if err != nil {
		return api.E("plan", api.Internal, p.Spec.Name, err)
	}
	if isSystem(p) {
		withoutHostCalls(profile)
	}
	s.Linux.Seccomp = profile
	return nil
}

func namespaces(p *instance.Prepared) []specs.LinuxNamespace {
	list := []specs.LinuxNamespace{
		{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
		{Type: specs.MountNamespace}, {Type: specs.CgroupNamespace},
	}
	if !p.HostNet {
		list = append(list, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	}
	if p.Users.Size > 0 {
		list = append(list, specs.LinuxNamespace{Type: specs.UserNamespace})
	}
	return list
}

// environment adds TERM for a terminal that has none.
func environment(p *instance.Process) []string {
	if !p.TTY || slices.ContainsFunc(p.Env, func(e string) bool { return strings.HasPrefix(e, "TERM=") }) {
		return p.Env
	}
	return append(slices.Clone(p.Env), "TERM=xterm")
}

// mounts lists the root filesystem, what every container has, and what was asked
// for, in an order in which no mount hides another.
func mounts(p *instance.Prepared, host instance.Host) []specs.Mount {
	list := []specs.Mount{
		rootOverlay(p, host),
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: append([]string{"nosuid", "strictatime", "mode=755"}, bounds(devSize)...)},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: append([]string{"nosuid", "noexec", "nodev", "mode=1777"}, bounds(devSize)...)},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		sysMount(p),
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
	}
	for _, name := range []string{"hostname", "hosts", "resolv.conf"} {
		list = append(list, specs.Mount{
			Destination: "/etc/" + name, Type: "bind", Source: filepath.Join(p.RunDir, name), Options: []string{"bind", "nosuid", "nodev", "noexec"},
		})
	}
	if isSystem(p) {
		list = append(list, specs.Mount{
			Destination: "/etc/machine-id", Type: "bind", Source: filepath.Join(p.RunDir, machineIDFile), Options: []string{"bind", "ro", "nosuid", "nodev", "noexec"},
		})
	}
	own := slices.Clone(p.Mounts)
	// A mount below another one comes after it, whatever the order of the options.
	slices.SortStableFunc(own, func(a, b instance.Mount) int {
		return strings.Count(filepath.Clean(a.Target), "/") - strings.Count(filepath.Clean(b.Target), "/")
	})
	for _, m := range own {
		list = append(list, ownMount(p, m, host))
	}
	return list
}

// rootOverlay is the root filesystem: the image's layers under the writable one. The
// ids of an ordinary user's containers are those of his daemon, so there is nothing to
// map, and overlayfs keeps its marks where he may write them. What goes with the run
// need not reach the disk: without "volatile" the end of a container waits until the
// kernel has written all that is dirty in the filesystem of the writable layer,
// whoever wrote it (ovl_sync_fs).
func rootOverlay(p *instance.Prepared, host instance.Host) specs.Mount {
	lower := make([]string, len(p.Rootfs.Layers))
	for i, dir := range p.Rootfs.Layers { // overlayfs wants the topmost first
		lower[len(lower)-1-i] = strings.NewReplacer(`\`, `\\`, `:`, `\:`).Replace(dir)
	}
	m := specs.Mount{Destination: "/", Type: "overlay", Source: "overlay", Options: []string{
		"lowerdir=" + strings.Join(lower, ":"), "upperdir=" + p.Rootfs.Upper, "workdir=" + p.Rootfs.Work,
	}}
	switch {
	case host.Rootless():
		m.Options = append(m.Options, "userxattr")
	case p.Users.Size > 0:
		m.Options = append(m.Options, "idmap")
	}
	if p.Spec.AutoRemove {
		m.Options = append(m.Options, "volatile")
	}
	if p.Rootfs.Whole && !host.Rootless() { // "userxattr" has neither, and refuses to be told so
		m.Options = append(m.Options, "redirect_dir=off", "metacopy=off")
	}
	return m
}

// sysMount shows the container's own devices. The host's network belongs to the
// host's user namespace, in which a container with its own may not mount a sysfs:
// it gets the host's, read-only.
func sysMount(p *instance.Prepared) specs.Mount {
	if p.HostNet && p.Users.Size > 0 {
		return specs.Mount{Destination: "/sys", Type: "bind", Source: "/sys", Options: []string{"bind", "nosuid", "noexec", "nodev", "ro"}}
	}
	return specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}}
}

// devSize is the size of the filesystems in memory that every container has, in
// bytes.
const devSize = 64 << 20

// bounds are the options that bound the content of a tmpfs, in bytes, and its
// number of files, to one for each page. An empty file costs the kernel's memory and
// none of the size; without a bound there may be as many as the host has pages.
func bounds(size int64) []string {
	return []string{fmt.Sprintf("size=%d", size), fmt.Sprintf("nr_inodes=%d", max(size/4096, 1024))}
}

func ownMount(p *instance.Prepared, m instance.Mount, host instance.Host) specs.Mount {
	if m.Type == api.MountTmpfs {
		options := append([]string{"nosuid", "nodev", fmt.Sprintf("mode=%o", m.Mode)}, bounds(m.Size)...)
		if !isSystem(p) && !m.Exec { // programs run in a machine's /tmp
			options = append(options, "noexec")
		}
		if m.ReadOnly {
			options = append(options, "ro")
		}
		return specs.Mount{Destination: m.Target, Type: "tmpfs", Source: "tmpfs", Options: options}
	}
	options := []string{"rbind", "rprivate"}
	if m.ReadOnly {
		options = append(options, "ro", "rro")
	}
	if p.Users.Size > 0 && !host.Rootless() {
		// Files keep the owners they have in the container, so that a volume can move
		// from one instance to another, whose range of ids is another one.
		options = append(options, "tryidmap")
	}
	return specs.Mount{Destination: m.Target, Type: "bind", Source: m.Source, Options: options}
}

// capabilities gives the sets of a process. The inheritable one stays empty
// (CVE-2022-27649).
func capabilities(p *instance.Prepared) (*specs.LinuxCapabilities, error) {
	list, err := caps.Bounding(defaultCaps(p), p.Spec.Security)
	if err != nil {
		return nil, err
	}
	return &specs.LinuxCapabilities{Bounding: list, Effective: list, Permitted: list}, nil
}
