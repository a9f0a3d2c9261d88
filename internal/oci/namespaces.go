package oci

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/bundle"
	"github.com/berthcloud/berth/internal/oci/spawn"
)

// cloneFlag returns the CLONE_NEW* bit of a namespace type.
func cloneFlag(t specs.LinuxNamespaceType) uintptr {
	switch t {
	case specs.PIDNamespace:
		return unix.CLONE_NEWPID
	case specs.NetworkNamespace:
		return unix.CLONE_NEWNET
	case specs.MountNamespace:
		return unix.CLONE_NEWNS
	case specs.IPCNamespace:
		return unix.CLONE_NEWIPC
	case specs.UTSNamespace:
		return unix.CLONE_NEWUTS
	case specs.UserNamespace:
		return unix.CLONE_NEWUSER
	case specs.CgroupNamespace:
		return unix.CLONE_NEWCGROUP
	case specs.TimeNamespace:
		return unix.CLONE_NEWTIME
	}
	return 0
}

// namespaces says which namespaces a container creates and which it joins.
type namespaces struct {
	create    uintptr // by clone
	newCgroup bool    // by the process, once the cgroups are joined
	newTime   bool    // by the intermediate child
	join      []spawn.Join
	files     []int
}

func (n *namespaces) close() {
	for _, fd := range n.files {
		unix.Close(fd)
	}
}

// openNamespaces opens what is to be joined. As the host's root we may enter all of
// them; the user namespace comes last, because in it we no longer are.
func openNamespaces(s *specs.Spec) (*namespaces, error) {
	n := &namespaces{}
	for i, ns := range s.Linux.Namespaces {
		flag := cloneFlag(ns.Type)
		switch {
		case ns.Path != "":
			fd, err := openNamespace(ns.Path, flag)
			if err != nil {
				n.close()
				return nil, fmt.Errorf("linux.namespaces[%d].path: %s: %w", i, ns.Path, err)
			}
			n.files = append(n.files, fd)
			join := spawn.Join{FD: fd, Type: flag}
			if ns.Type == specs.UserNamespace {
				n.join = append(n.join, join)
			} else {
				n.join = append([]spawn.Join{join}, n.join...)
			}
		case ns.Type == specs.CgroupNamespace:
			n.newCgroup = true
		case ns.Type == specs.TimeNamespace:
			n.newTime = true
		default:
			n.create |= flag
		}
	}
	return n, nil
}

// openNamespace opens a namespace file and verifies its type: setns would too, but
// with a mere "invalid argument".
func openNamespace(path string, flag uintptr) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	t, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	switch {
	case err != nil:
		err = errors.New(`not a namespace file (config-linux.md: "The runtime MUST generate an error if path is not associated with a namespace of type type")`)
	case uintptr(t) != flag:
		err = errors.New(`a namespace of another type (config-linux.md: "The runtime MUST generate an error if path is not associated with a namespace of type type")`)
	default:
		return fd, nil
	}
	unix.Close(fd)
	return -1, err
}

// writeIDMaps gives a new user namespace its maps, from outside.
func writeIDMaps(pid int, uids, gids []specs.LinuxIDMapping) error {
	proc := "/proc/" + strconv.Itoa(pid)
	if err := writeFile(proc+"/uid_map", idMap(uids)); err != nil {
		return fmt.Errorf("linux.uidMappings: %w", err)
	}
	if err := writeFile(proc+"/gid_map", idMap(gids)); err != nil {
		return fmt.Errorf("linux.gidMappings: %w", err)
	}
	return nil
}

// idMap formats a map as the kernel wants it (user_namespaces(7)).
func idMap(list []specs.LinuxIDMapping) string {
	var b strings.Builder
	for _, m := range list {
		fmt.Fprintf(&b, "%d %d %d\n", m.ContainerID, m.HostID, m.Size)
	}
	return b.String()
}

// writeFile writes to an existing file of /proc in one call.
func writeFile(path, text string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(text)); err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

// hasUserNamespace reports whether the container's user namespace is not ours.
func hasUserNamespace(s *specs.Spec) bool { return bundle.Namespace(s, specs.UserNamespace) != nil }

// mapsNamespace returns a user namespace that has the given maps and no process:
// what id-mapped mounts are mapped through.
func mapsNamespace(uids, gids []specs.LinuxIDMapping) (int, error) {
	child, err := spawn.Start(&spawn.Cmd{Files: []int{-1}, New: unix.CLONE_NEWUSER, Cgroup: -1})
	if err != nil {
		return -1, err
	}
	defer child.Kill()
	if err := writeIDMaps(child.Pid, uids, gids); err != nil {
		return -1, err
	}
	return openUserNamespace(child.Pid)
}

func openUserNamespace(pid int) (int, error) {
	path := "/proc/" + strconv.Itoa(pid) + "/ns/user"
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}
