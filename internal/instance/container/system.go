package container

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/instance/caps"
	"github.com/berthcloud/berth/internal/oci"
)

// maxCgroups bounds the cgroups that the init of a container may make below its
// own: each costs kernel memory. It is as many as processes.
const maxCgroups = "4096"

// isSystem reports whether a container boots its image's init.
func isSystem(p *instance.Prepared) bool { return p.Spec.Init == api.InitSystem }

// defaultCaps are the capabilities that additions and removals apply to.
func defaultCaps(p *instance.Prepared) []string {
	if isSystem(p) {
		return caps.System()
	}
	return caps.Defaults()
}

// bootable completes the specification of a container that boots its image's
// init. Programs may gain the rights of their files' owners: those are users of
// the container's own user namespace.
func bootable(s *specs.Spec, p *instance.Prepared, v2 bool) {
	if !isSystem(p) {
		return
	}
	s.Annotations[oci.InitAnnotation] = oci.InitSystem
	s.Process.NoNewPrivileges = false
	if !v2 || s.Linux.Resources == nil {
		return // v1 cannot be delegated safely: Documentation/admin-guide/cgroup-v2.rst, "Delegation"
	}
	for i, m := range s.Mounts {
		if m.Type == "cgroup" {
			s.Mounts[i].Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "ro" })
		}
	}
	if s.Linux.Resources.Unified == nil {
		s.Linux.Resources.Unified = map[string]string{}
	}
	s.Linux.Resources.Unified["cgroup.max.descendants"] = maxCgroups
}

// withoutHostCalls takes out of a profile what CAP_SYS_ADMIN opens in it but no
// namespace confines: an init needs none of it.
func withoutHostCalls(profile *specs.LinuxSeccomp) {
	host := []string{"bpf", "fanotify_init", "lookup_dcookie", "perf_event_open", "quotactl", "quotactl_fd", "syslog"}
	for i := range profile.Syscalls {
		s := &profile.Syscalls[i]
		if s.Action == specs.ActAllow {
			s.Names = slices.DeleteFunc(s.Names, func(name string) bool { return slices.Contains(host, name) })
		}
	}
	profile.Syscalls = slices.DeleteFunc(profile.Syscalls, func(s specs.LinuxSyscall) bool { return len(s.Names) == 0 })
}
