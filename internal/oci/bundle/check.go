package bundle

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// check reports the first contradiction of a specification. What the later steps
// want to find is there afterwards: linux, and process, without args where it was not
// set, for it is "REQUIRED when start is called" (config.md, Process) and not before.
func check(s *specs.Spec) error {
	if err := checkVersion(s.Version); err != nil {
		return err
	}
	if s.Linux == nil {
		s.Linux = &specs.Linux{}
	}
	for _, c := range []func(*specs.Spec) error{
		checkPlatform, checkRoot, checkNamespaces, checkIDs, checkNames, checkMounts,
		checkLinuxPaths, checkDevices, checkNetDevices, checkIntelRdt, checkSysctl, checkHooks, checkResources,
	} {
		if err := c(s); err != nil {
			return err
		}
	}
	if s.Process == nil {
		s.Process = &specs.Process{Cwd: "/"}
		return nil
	}
	return CheckProcess(s.Process)
}

func checkPlatform(s *specs.Spec) error {
	switch {
	case s.Windows != nil:
		return errors.New("windows: this is a runtime for Linux")
	case s.Solaris != nil:
		return errors.New("solaris: this is a runtime for Linux")
	case s.ZOS != nil:
		return errors.New("zos: this is a runtime for Linux")
	case s.FreeBSD != nil:
		return errors.New("freebsd: this is a runtime for Linux")
	}
	return nil
}

// RootOverlay reports whether the first mount is the root filesystem itself: an
// overlay on "/", Berth's own way of starting from shared layers.
func RootOverlay(s *specs.Spec) bool {
	return len(s.Mounts) > 0 && s.Mounts[0].Destination == "/" && s.Mounts[0].Type == "overlay"
}

func checkRoot(s *specs.Spec) error {
	if s.Root == nil || s.Root.Path == "" {
		if RootOverlay(s) {
			return nil
		}
		return errors.New(`root.path: missing (config.md: "path (string, REQUIRED)")`)
	}
	if !filepath.IsAbs(s.Root.Path) && !filepath.IsLocal(s.Root.Path) {
		return fmt.Errorf(`root.path: %q leaves the bundle (config.md: "path is either an absolute path or a relative path to the bundle")`, s.Root.Path)
	}
	return noNUL("root.path", s.Root.Path)
}

// Namespace returns the entry of a type, or nil.
func Namespace(s *specs.Spec, t specs.LinuxNamespaceType) *specs.LinuxNamespace {
	for i := range s.Linux.Namespaces {
		if s.Linux.Namespaces[i].Type == t {
			return &s.Linux.Namespaces[i]
		}
	}
	return nil
}

// fresh reports whether a namespace of the type is created for the container.
func fresh(s *specs.Spec, t specs.LinuxNamespaceType) bool {
	ns := Namespace(s, t)
	return ns != nil && ns.Path == ""
}

func checkNamespaces(s *specs.Spec) error {
	seen := map[specs.LinuxNamespaceType]bool{}
	for i, ns := range s.Linux.Namespaces {
		field := fmt.Sprintf("linux.namespaces[%d]", i)
		switch ns.Type {
		case specs.PIDNamespace, specs.NetworkNamespace, specs.MountNamespace, specs.IPCNamespace,
			specs.UTSNamespace, specs.UserNamespace, specs.CgroupNamespace, specs.TimeNamespace:
		default:
			return fmt.Errorf("%s.type: unknown type %q", field, ns.Type)
		}
		if seen[ns.Type] {
			return fmt.Errorf(`%s.type: %q stands twice in the list (config-linux.md: "If a namespaces field contains duplicated namespaces with same type, the runtime MUST generate an error")`, field, ns.Type)
		}
		seen[ns.Type] = true
		if ns.Path != "" && !filepath.IsAbs(ns.Path) {
			return fmt.Errorf(`%s.path: %q must be absolute (config-linux.md: "This value MUST be an absolute path in the runtime mount namespace")`, field, ns.Path)
		}
		if err := noNUL(field+".path", ns.Path); err != nil {
			return err
		}
	}
	if len(s.Linux.TimeOffsets) > 0 && !fresh(s, specs.TimeNamespace) {
		return errors.New("linux.timeOffsets: needs a new time namespace in linux.namespaces")
	}
	for clock := range s.Linux.TimeOffsets {
		if clock != "monotonic" && clock != "boottime" {
			return fmt.Errorf("linux.timeOffsets: unknown clock %q", clock)
		}
	}
	return nil
}

func checkIDs(s *specs.Spec) error {
	user := fresh(s, specs.UserNamespace)
	for _, m := range []struct {
		field string
		list  []specs.LinuxIDMapping
	}{{"linux.uidMappings", s.Linux.UIDMappings}, {"linux.gidMappings", s.Linux.GIDMappings}} {
		if len(m.list) > 0 && Namespace(s, specs.UserNamespace) == nil {
			return fmt.Errorf("%s: needs a user namespace in linux.namespaces", m.field)
		}
		if len(m.list) == 0 && user {
			return fmt.Errorf("%s: missing, but linux.namespaces asks for a new user namespace", m.field)
		}
		if err := CheckMappings(m.field, m.list); err != nil {
			return err
		}
	}
	return nil
}

// CheckMappings checks one list of id mappings. The kernel takes at most 340
// extents (user_namespaces(7)).
func CheckMappings(field string, list []specs.LinuxIDMapping) error {
	if len(list) > 340 {
		return fmt.Errorf("%s: %d ranges, the kernel takes at most 340", field, len(list))
	}
	for i, m := range list {
		if m.Size == 0 {
			return fmt.Errorf("%s[%d].size: must not be 0", field, i)
		}
		if m.ContainerID > math.MaxUint32-m.Size || m.HostID > math.MaxUint32-m.Size {
			return fmt.Errorf("%s[%d]: the range ends beyond the largest id", field, i)
		}
		for j, o := range list[:i] {
			if m.ContainerID < o.ContainerID+o.Size && o.ContainerID < m.ContainerID+m.Size {
				return fmt.Errorf("%s[%d]: overlaps %s[%d] in the container", field, i, field, j)
			}
			if m.HostID < o.HostID+o.Size && o.HostID < m.HostID+m.Size {
				return fmt.Errorf("%s[%d]: overlaps %s[%d] on the host", field, i, field, j)
			}
		}
	}
	return nil
}

func checkNames(s *specs.Spec) error {
	for _, n := range []struct{ field, value string }{{"hostname", s.Hostname}, {"domainname", s.Domainname}} {
		if n.value == "" {
			continue
		}
		if Namespace(s, specs.UTSNamespace) == nil {
			return fmt.Errorf("%s: needs a uts namespace in linux.namespaces", n.field)
		}
		if len(n.value) > 64 {
			return fmt.Errorf("%s: longer than 64 bytes", n.field)
		}
		if err := noNUL(n.field, n.value); err != nil {
			return err
		}
	}
	return nil
}

func checkMounts(s *specs.Spec) error {
	own := fresh(s, specs.MountNamespace)
	if !own && RootOverlay(s) {
		return errors.New("mounts[0]: an overlay on / needs a new mount namespace in linux.namespaces")
	}
	for i, m := range s.Mounts {
		field := fmt.Sprintf("mounts[%d]", i)
		if m.Destination == "" {
			return fmt.Errorf(`%s.destination: missing (config.md: "destination (string, REQUIRED)")`, field)
		}
		if err := noNUL(field+".destination", m.Destination); err != nil {
			return err
		}
		if err := noNUL(field+".source", m.Source); err != nil {
			return err
		}
		if filepath.Clean("/"+m.Destination) == "/" && (i > 0 || !RootOverlay(s)) {
			return fmt.Errorf("%s.destination: / is the root filesystem's own (root.path)", field)
		}
		if strings.HasPrefix(filepath.Clean("/"+m.Destination), "/proc/") {
			if err := checkProcMount(field, m); err != nil {
				return err
			}
		}
		if len(m.UIDMappings) != 0 != (len(m.GIDMappings) != 0) {
			return fmt.Errorf(`%s: uidMappings and gidMappings must be given together (config.md: "If specified, it MUST be specified along with gidMappings")`, field)
		}
		if err := CheckMappings(field+".uidMappings", m.UIDMappings); err != nil {
			return err
		}
		if err := CheckMappings(field+".gidMappings", m.GIDMappings); err != nil {
			return err
		}
	}
	return nil
}

// procAllowed are the files of /proc that LXCFS and its like replace; anything
// else there may carry the container's labels and limits (CVE-2019-16884).
var procAllowed = []string{
	"cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo", "sys/kernel/ns_last_pid", "sys/crypto/fips_enabled",
}

func checkProcMount(field string, m specs.Mount) error {
	rel := strings.TrimPrefix(filepath.Clean("/"+m.Destination), "/proc/")
	if slices.Contains(procAllowed, rel) {
		return nil
	}
	if m.Type == "proc" || m.Type == "binfmt_misc" && rel == "sys/fs/binfmt_misc" {
		return nil
	}
	return fmt.Errorf("%s.destination: %q must not be mounted over (CVE-2019-16884)", field, m.Destination)
}

func checkLinuxPaths(s *specs.Spec) error {
	for i, p := range s.Linux.MaskedPaths {
		if !filepath.IsAbs(p) || strings.ContainsRune(p, 0) {
			return fmt.Errorf(`linux.maskedPaths[%d]: %q must be an absolute path (config-linux.md: "The values MUST be absolute paths in the container namespace")`, i, p)
		}
	}
	for i, p := range s.Linux.ReadonlyPaths {
		if !filepath.IsAbs(p) || strings.ContainsRune(p, 0) {
			return fmt.Errorf(`linux.readonlyPaths[%d]: %q must be an absolute path (config-linux.md: "The values MUST be absolute paths in the container namespace")`, i, p)
		}
	}
	if (len(s.Linux.MaskedPaths) > 0 || len(s.Linux.ReadonlyPaths) > 0) && Namespace(s, specs.MountNamespace) == nil {
		return errors.New("linux.maskedPaths and linux.readonlyPaths: need a mount namespace in linux.namespaces")
	}
	switch s.Linux.RootfsPropagation {
	case "", "shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate", "runbindable":
	default:
		return fmt.Errorf(`linux.rootfsPropagation: unknown value %q (config-linux.md: "Its value is either shared, slave, private or unbindable")`, s.Linux.RootfsPropagation)
	}
	return nil
}

// The kernel's device numbers have 12 and 20 bits (kdev_t.h).
const maxMajor, maxMinor = 1<<12 - 1, 1<<20 - 1

func checkDevices(s *specs.Spec) error {
	for i, d := range s.Linux.Devices {
		field := fmt.Sprintf("linux.devices[%d]", i)
		if !filepath.IsAbs(d.Path) || strings.ContainsRune(d.Path, 0) {
			return fmt.Errorf("%s.path: %q must be an absolute path", field, d.Path)
		}
		switch d.Type {
		case "c", "b", "u":
			if d.Major < 0 || d.Minor < 0 || d.Major > maxMajor || d.Minor > maxMinor {
				return fmt.Errorf("%s: device number %d:%d is out of range: the kernel has majors up to %d and minors up to %d", field, d.Major, d.Minor, maxMajor, maxMinor)
			}
		case "p":
		default:
			return fmt.Errorf(`%s.type: %q is none of c, b, u, p (config-linux.md: "type of device: c, b, u or p")`, field, d.Type)
		}
	}
	return nil
}

func checkHooks(s *specs.Spec) error {
	if s.Hooks == nil {
		return nil
	}
	for _, h := range []struct {
		field string
		list  []specs.Hook
	}{
		{"hooks.prestart", s.Hooks.Prestart}, {"hooks.createRuntime", s.Hooks.CreateRuntime},
		{"hooks.createContainer", s.Hooks.CreateContainer}, {"hooks.startContainer", s.Hooks.StartContainer},
		{"hooks.poststart", s.Hooks.Poststart}, {"hooks.poststop", s.Hooks.Poststop},
	} {
		for i, hook := range h.list {
			if !filepath.IsAbs(hook.Path) || strings.ContainsRune(hook.Path, 0) {
				return fmt.Errorf(`%s[%d].path: %q must be an absolute path (config.md: "path MUST be absolute")`, h.field, i, hook.Path)
			}
			if hook.Timeout != nil && *hook.Timeout <= 0 {
				return fmt.Errorf(`%s[%d].timeout: must be greater than 0 (config.md: "If set, timeout MUST be greater than zero")`, h.field, i)
			}
		}
	}
	return nil
}

func noNUL(field, s string) error {
	if strings.IndexByte(s, 0) >= 0 {
		return fmt.Errorf("%s: %s contains a NUL byte", field, strconv.Quote(s))
	}
	return nil
}
