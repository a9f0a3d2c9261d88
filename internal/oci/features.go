package oci

import (
	"os/exec"
	"slices"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"github.com/berthcloud/berth/internal/oci/capability"
	"github.com/berthcloud/berth/internal/oci/cgroup"
	"github.com/berthcloud/berth/internal/oci/mount"
	"github.com/berthcloud/berth/internal/oci/seccomp"
)

// SpecVersion returns the newest version of the specification that is understood.
func SpecVersion() string { return specs.Version }

// Features describes this runtime (features.md).
func Features() *features.Features {
	yes, no, systemd := true, false, cgroup.BySystemd()
	_, noCRIU := exec.LookPath("criu")
	return &features.Features{
		// The word is runc's, which engines know.
		Annotations:   map[string]string{"org.opencontainers.runc.checkpoint.enabled": strconv.FormatBool(noCRIU == nil)},
		OCIVersionMin: "1.0.0",
		OCIVersionMax: SpecVersion(),
		Hooks:         []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"},
		MountOptions:  mount.Names(),
		Linux: &features.Linux{
			Namespaces:   []string{"cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"},
			Capabilities: capability.Names(),
			Cgroup:       &features.Cgroup{V1: &yes, V2: &yes, Systemd: &systemd, SystemdUser: &no, Rdma: &yes},
			Seccomp: &features.Seccomp{
				Enabled: &yes, Actions: seccomp.Actions(), Operators: seccomp.Operators(),
				Archs: seccomp.Arches(), KnownFlags: seccomp.FlagNames(), SupportedFlags: seccomp.FlagNames(),
			},
			Apparmor:        &features.Apparmor{Enabled: &yes},
			Selinux:         &features.Selinux{Enabled: &yes},
			IntelRdt:        &features.IntelRdt{Enabled: &yes, Schemata: &yes, Monitoring: &yes},
			MemoryPolicy:    &features.MemoryPolicy{Modes: slices.Clone(memoryModes), Flags: slices.Clone(memoryFlags)},
			NetDevices:      &features.NetDevices{Enabled: &yes},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &yes}},
		},
	}
}
