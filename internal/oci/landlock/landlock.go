// Package landlock reads what a container's Landlock domain allows: a second wall behind
// the mounts and the capabilities, which the workload cannot take down however it gets
// at a file (landlock(7); the kernel's Documentation/userspace-api/landlock.rst). The
// runtime specification has no property for it, so an annotation holds it.
//
// Reading and translating are pure; package stage makes the system calls.
package landlock

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Annotation holds a Profile as JSON.
const Annotation = "cloud.berth.landlock"

// RuleNetPort is LANDLOCK_RULE_NET_PORT of the kernel's landlock.h.
const RuleNetPort = 2

// Bounds of a profile, far above what one needs: every path and port is a system call
// of each process that starts.
const (
	maxProfile = 64 << 10 // bytes
	maxRules   = 1024     // paths and ports
)

// Profile says which kinds of access are taken away, and where they are given back. The
// names are those of the kernel's constants in lower case: execute, write_file,
// bind_tcp, signal.
type Profile struct {
	FS     []string `json:"handledAccessFS,omitempty"`
	Net    []string `json:"handledAccessNet,omitempty"`
	Scoped []string `json:"scoped,omitempty"` // what reaches no process outside the container's

	Paths []PathRule `json:"pathBeneath,omitempty"`
	Ports []PortRule `json:"netPort,omitempty"`

	// BestEffort leaves out what the kernel does not know instead of refusing to start.
	BestEffort bool `json:"bestEffort,omitempty"`
}

// PathRule gives access back to files, and to all below directories. Of a file counts
// what concerns files: execute, read_file, write_file, truncate, ioctl_dev.
type PathRule struct {
	Access []string `json:"allowedAccess"`
	Paths  []string `json:"paths"` // absolute, in the container
}

// PortRule gives access back to TCP ports.
type PortRule struct {
	Access []string `json:"allowedAccess"`
	Ports  []uint16 `json:"ports"`
}

// right is one kind of access: its bit, and the version of the interface that brought it.
type right struct {
	bit     uint64
	version int
}

func fsRights() map[string]right {
	return map[string]right{
		"execute": {unix.LANDLOCK_ACCESS_FS_EXECUTE, 1}, "write_file": {unix.LANDLOCK_ACCESS_FS_WRITE_FILE, 1},
		"read_file": {unix.LANDLOCK_ACCESS_FS_READ_FILE, 1}, "read_dir": {unix.LANDLOCK_ACCESS_FS_READ_DIR, 1},
		"remove_dir": {unix.LANDLOCK_ACCESS_FS_REMOVE_DIR, 1}, "remove_file": {unix.LANDLOCK_ACCESS_FS_REMOVE_FILE, 1},
		"make_char": {unix.LANDLOCK_ACCESS_FS_MAKE_CHAR, 1}, "make_dir": {unix.LANDLOCK_ACCESS_FS_MAKE_DIR, 1},
		"make_reg": {unix.LANDLOCK_ACCESS_FS_MAKE_REG, 1}, "make_sock": {unix.LANDLOCK_ACCESS_FS_MAKE_SOCK, 1},
		"make_fifo": {unix.LANDLOCK_ACCESS_FS_MAKE_FIFO, 1}, "make_block": {unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK, 1},
		"make_sym": {unix.LANDLOCK_ACCESS_FS_MAKE_SYM, 1}, "refer": {unix.LANDLOCK_ACCESS_FS_REFER, 2},
		"truncate": {unix.LANDLOCK_ACCESS_FS_TRUNCATE, 3}, "ioctl_dev": {unix.LANDLOCK_ACCESS_FS_IOCTL_DEV, 5},
	}
}

func netRights() map[string]right {
	return map[string]right{"bind_tcp": {unix.LANDLOCK_ACCESS_NET_BIND_TCP, 4}, "connect_tcp": {unix.LANDLOCK_ACCESS_NET_CONNECT_TCP, 4}}
}

func scopes() map[string]right {
	return map[string]right{"abstract_unix_socket": {unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET, 6}, "signal": {unix.LANDLOCK_SCOPE_SIGNAL, 6}}
}

// ofFiles are the rights that a file can have; with any other the kernel refuses a rule
// for one.
const ofFiles = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_READ_FILE |
	unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV

// Parse reads a profile. It refuses what it does not know: a misspelled right would not be
// taken away.
func Parse(text string) (*Profile, error) {
	if len(text) > maxProfile {
		return nil, fmt.Errorf("%d bytes are more than the %d allowed", len(text), maxProfile)
	}
	p := &Profile{}
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(p); err != nil {
		return nil, fmt.Errorf("not a profile: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("not a profile: something follows it")
	}
	return p, p.check()
}

// check refuses contradictions, which the kernel would answer with a bare EINVAL.
func (p *Profile) check() error {
	handledFS, err := known("handledAccessFS", p.FS, fsRights())
	if err != nil {
		return err
	}
	handledNet, err := known("handledAccessNet", p.Net, netRights())
	if err != nil {
		return err
	}
	scoped, err := known("scoped", p.Scoped, scopes())
	if err != nil {
		return err
	}
	if handledFS|handledNet|scoped == 0 {
		return errors.New("handledAccessFS, handledAccessNet and scoped are empty: nothing would be forbidden; name what is to be")
	}
	rules := 0
	for i, r := range p.Paths {
		field := fmt.Sprintf("pathBeneath[%d]", i)
		if err := within(field, r.Access, fsRights(), handledFS, "handledAccessFS"); err != nil {
			return err
		}
		for _, name := range r.Paths {
			if !path.IsAbs(name) || strings.Contains(name, "\x00") {
				return fmt.Errorf("%s.paths: %q is no absolute path", field, name)
			}
		}
		rules += len(r.Paths)
	}
	for i, r := range p.Ports {
		if err := within(fmt.Sprintf("netPort[%d]", i), r.Access, netRights(), handledNet, "handledAccessNet"); err != nil {
			return err
		}
		rules += len(r.Ports)
	}
	if rules > maxRules {
		return fmt.Errorf("%d paths and ports are more than the %d allowed", rules, maxRules)
	}
	return nil
}

// known returns the bits of names.
func known(field string, names []string, rights map[string]right) (bits uint64, err error) {
	for _, name := range names {
		r, ok := rights[name]
		if !ok {
			return 0, fmt.Errorf("%s: %q is unknown; there are %s", field, name, strings.Join(slices.Sorted(maps.Keys(rights)), ", "))
		}
		bits |= r.bit
	}
	return bits, nil
}

// within checks that a rule gives back only what is taken away.
func within(field string, access []string, rights map[string]right, handled uint64, list string) error {
	bits, err := known(field+".allowedAccess", access, rights)
	if err != nil {
		return err
	}
	if bits == 0 {
		return fmt.Errorf("%s.allowedAccess: is empty; name what is allowed", field)
	}
	for _, name := range access {
		if rights[name].bit&^handled != 0 {
			return fmt.Errorf("%s.allowedAccess: %q is not in %s, so it is allowed everywhere; add it there or leave it out here", field, name, list)
		}
	}
	return nil
}

// Domain is a profile as the kernel reads it, for one version of its interface.
type Domain struct {
	Size   int // bytes of struct landlock_ruleset_attr that the version knows
	FS     uint64
	Net    uint64
	Scoped uint64
	Paths  []Path
	Ports  []Port
}

// Path gives access back to one file or directory.
type Path struct {
	Path string
	Dir  uint64 // where it is a directory
	File uint64 // where it is not, or 0 for nothing to give
}

// Port gives access back to one port.
type Port struct {
	Port   uint16
	Access uint64
}

// Domain translates the profile for a version of the interface (0: the kernel has no
// Landlock). It returns nil where a profile of best effort has nothing left.
func (p *Profile) Domain(version int) (*Domain, error) {
	d := &Domain{}
	for _, part := range []struct {
		names  []string
		rights map[string]right
		bits   *uint64
	}{{p.FS, fsRights(), &d.FS}, {p.Net, netRights(), &d.Net}, {p.Scoped, scopes(), &d.Scoped}} {
		for _, name := range part.names {
			r := part.rights[name]
			if r.version <= version {
				*part.bits |= r.bit
			} else if !p.BestEffort {
				return nil, tooOld(name, r.version, version)
			}
		}
	}
	if d.FS|d.Net|d.Scoped == 0 {
		return nil, nil
	}
	d.Size = size(version)
	for _, r := range p.Paths {
		access, _ := known("", r.Access, fsRights()) // checked by Parse
		for _, name := range r.Paths {
			if access &= d.FS; access != 0 {
				d.Paths = append(d.Paths, Path{path.Clean(name), access, access & ofFiles})
			}
		}
	}
	for _, r := range p.Ports {
		access, _ := known("", r.Access, netRights()) // checked by Parse
		for _, port := range r.Ports {
			if access &= d.Net; access != 0 {
				d.Ports = append(d.Ports, Port{port, access})
			}
		}
	}
	return d, nil
}

func tooOld(name string, wants, has int) error {
	if has == 0 {
		return errors.New("the kernel has no Landlock, or it is not switched on (lsm= of its command line); bestEffort goes without")
	}
	return fmt.Errorf("%q takes version %d of Landlock, and the kernel has %d; bestEffort goes without", name, wants, has)
}

// size returns how much of struct landlock_ruleset_attr a version knows: a kernel
// refuses more, unless it is zero.
func size(version int) int {
	switch {
	case version >= 6:
		return 24
	case version >= 4:
		return 16
	}
	return 8
}

// Version asks which version of the interface the kernel has; 0 for none.
func Version() (int, error) {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	switch errno {
	case 0:
		return int(version), nil
	case unix.ENOSYS, unix.EOPNOTSUPP: // not built in, not switched on
		return 0, nil
	}
	return 0, fmt.Errorf("landlock_create_ruleset: %w", errno)
}
