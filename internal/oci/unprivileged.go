package oci

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/bundle"
	"github.com/berthcloud/berth/internal/oci/rootless"
	"github.com/berthcloud/berth/internal/oci/spawn"
)

// EnteredArg is the argument of this program, executed anew by Enter, that says that
// it is root of the container's user namespace already. It stands first; a user has
// no use for it.
const EnteredArg = "entered"

// UserRoot is where an ordinary user's containers have their state.
func UserRoot() string {
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		dir = "/run/user/" + strconv.Itoa(os.Getuid())
	}
	return dir + "/berth-oci"
}

// Enter runs this program again, with EnteredArg and args, as root of the user
// namespace that the bundle asks for, and returns the pid of that child: who is not the
// host's root can prepare a container's mounts only there. Descriptors below files are
// passed on.
func Enter(b *bundle.Bundle, files int, args []string) (pid int, err error) {
	user := bundle.Namespace(b.Spec, specs.UserNamespace)
	if user == nil {
		return 0, errors.New("linux.namespaces: without one of type user, only root can make this container; berth-oci spec --rootless shows how it looks")
	}
	c := rootless.Command{
		Args: append([]string{"berth-oci", EnteredArg}, args...), Env: os.Environ(),
		New: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, UIDs: b.Spec.Linux.UIDMappings, GIDs: b.Spec.Linux.GIDMappings,
	}
	for fd := range files {
		c.Files = append(c.Files, fd)
	}
	if user.Path != "" {
		fd, err := openNamespace(user.Path, unix.CLONE_NEWUSER)
		if err != nil {
			return 0, &os.PathError{Op: "linux.namespaces", Path: user.Path, Err: err}
		}
		defer unix.Close(fd)
		c.New, c.Join = unix.CLONE_NEWNS, []spawn.Join{{FD: fd, Type: unix.CLONE_NEWUSER}}
	}
	pid, err = rootless.Start(c)
	if errors.Is(err, rootless.ErrMaps) {
		err = fmt.Errorf("linux.uidMappings, linux.gidMappings: %w", err)
	}
	return pid, err
}

// forgetUser takes the user namespace out of a specification whose container is made
// from inside of it.
func forgetUser(s *specs.Spec) {
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace })
	s.Linux.UIDMappings, s.Linux.GIDMappings = nil, nil
}

// isBoxed reports whether this process is in a user namespace, and so the container
// too, whether or not it has one of its own: then there are no device nodes to make, no
// sysfs of the host's network to mount, and cgroups only where they are delegated.
func (r *Runtime) isBoxed() bool { return r.Entered || !initialUserNamespace() }

// initialUserNamespace reports whether this process is in the host's: that one maps
// every id to itself (user_namespaces(7)).
func initialUserNamespace() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	return err != nil || slices.Equal(strings.Fields(string(b)), []string{"0", "0", "4294967295"})
}

// mayNotSetGroups reports whether setgroups is denied in the user namespace of a
// process.
func mayNotSetGroups(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/setgroups")
	return err == nil && string(b) == "deny\n"
}

// wantsLimits reports whether anything is asked of cgroups that a container without
// them goes without. Rules about devices are not: a user namespace has none to make.
func wantsLimits(r *specs.LinuxResources) bool {
	return r != nil && (r.Memory != nil || r.CPU != nil || r.Pids != nil || r.BlockIO != nil || r.Network != nil ||
		len(r.HugepageLimits) > 0 || len(r.Rdma) > 0 || len(r.Unified) > 0)
}

// ExampleUserSpec is ExampleSpec for an ordinary user, whose id and group become the
// container's root: no network of its own, so the host's sysfs, and no cgroups.
func ExampleUserSpec(uid, gid int) *specs.Spec {
	s := ExampleSpec()
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(uid), Size: 1}}
	s.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(gid), Size: 1}}
	s.Linux.Resources = nil
	s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Type == "cgroup" })
	for i := range s.Mounts {
		m := &s.Mounts[i]
		m.Options = slices.DeleteFunc(m.Options, func(o string) bool { return strings.HasPrefix(o, "gid=") }) // not mapped
		if m.Type == "sysfs" {
			*m = specs.Mount{Destination: m.Destination, Type: "none", Source: "/sys", Options: []string{"rbind", "rnosuid", "rnoexec", "rnodev", "rro"}}
		}
	}
	return s
}
