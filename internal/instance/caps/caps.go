// Package caps decides which Linux capabilities an instance's processes may
// have. It is the same for both kinds: a workload that moves from a container
// to a VM finds the rights it had.
package caps

import (
	"fmt"
	"slices"
	"strings"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/oci/capability"
)

// Defaults are those of docker (moby, daemon/pkg/oci/caps/defaults.go).
func Defaults() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
}

// System are those of a container that boots its image's init, which hold in its
// own user namespace only: it mounts file systems and makes namespaces for its
// services (SYS_ADMIN), sets up the network it has to itself (NET_ADMIN), looks
// after services of other users (SYS_PTRACE: start-stop-daemon reads their
// /proc/PID/exe), and powers off its pid namespace (SYS_BOOT). LXC
// leaves an unprivileged container all capabilities there are (userns.conf).
func System() []string {
	return append(Defaults(), "CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_BOOT")
}

// Bounding applies additions and removals to defaults, removals last, and returns
// the names of what is left. An unknown name is an error that names it.
func Bounding(defaults []string, sec api.Security) ([]string, error) {
	add, all, err := parse(sec.CapAdd)
	if err != nil {
		return nil, err
	}
	drop, none, err := parse(sec.CapDrop)
	if err != nil {
		return nil, err
	}
	var base []string
	switch {
	case all:
		base = capability.Names()
	case !none:
		base = defaults
	}
	var list []string
	for _, name := range append(base, add...) {
		if !slices.Contains(drop, name) && !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list, nil
}

// parse completes names as users write them: net_admin, CAP_NET_ADMIN, all.
func parse(list []string) (names []string, all bool, err error) {
	for _, name := range list {
		full := "CAP_" + strings.TrimPrefix(strings.ToUpper(name), "CAP_")
		switch {
		case full == "CAP_ALL":
			all = true
		case capability.Number(full) < 0:
			return nil, false, fmt.Errorf("unknown capability %q; capabilities(7) lists them", name)
		default:
			names = append(names, full)
		}
	}
	return names, all, nil
}
