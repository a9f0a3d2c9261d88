// Package mount prepares and places a container's mounts.
//
// Two rules keep it safe. A mount's target is a descriptor found by
// openat2(RESOLVE_IN_ROOT), never a path string that a symbolic link could lead
// astray between check and use (CVE-2021-30465, CVE-2024-45310, CVE-2025-52881).
// And a mount is finished (attributes, propagation, id map) while it is detached,
// before any process of the container can see it.
package mount

import (
	"fmt"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// Options are the parsed options of one mount.
type Options struct {
	Set, Clear       uint64   // MOUNT_ATTR_* of the mount itself
	RecSet, RecClear uint64   // … of all mounts below it too
	Prop             uint64   // MS_SHARED, MS_SLAVE, MS_PRIVATE, MS_UNBINDABLE, perhaps | MS_REC; 0 if unsaid
	Bind, Recursive  bool     // bind or rbind
	CopyUp           bool     // tmpcopyup
	IDMap, RecIDMap  bool     // idmap, ridmap
	TryIDMap         bool     // tryidmap, Berth's own: like ridmap, but go without where the filesystem cannot
	Data             []string // for the filesystem: "size=64k", "sync"
}

// attribute is what one option does to the mount's attributes.
type attribute struct{ set, clear uint64 }

// attributes are the options that belong to a mount, not to its filesystem. With
// the prefix "r" they are recursive. (runtime-spec config-linux.md, Mount options)
func attributes(name string) (attribute, bool) {
	switch name {
	case "ro":
		return attribute{set: unix.MOUNT_ATTR_RDONLY}, true
	case "rw":
		return attribute{clear: unix.MOUNT_ATTR_RDONLY}, true
	case "nosuid":
		return attribute{set: unix.MOUNT_ATTR_NOSUID}, true
	case "suid":
		return attribute{clear: unix.MOUNT_ATTR_NOSUID}, true
	case "nodev":
		return attribute{set: unix.MOUNT_ATTR_NODEV}, true
	case "dev":
		return attribute{clear: unix.MOUNT_ATTR_NODEV}, true
	case "noexec":
		return attribute{set: unix.MOUNT_ATTR_NOEXEC}, true
	case "exec":
		return attribute{clear: unix.MOUNT_ATTR_NOEXEC}, true
	case "nodiratime":
		return attribute{set: unix.MOUNT_ATTR_NODIRATIME}, true
	case "diratime":
		return attribute{clear: unix.MOUNT_ATTR_NODIRATIME}, true
	case "relatime":
		return attribute{set: unix.MOUNT_ATTR_RELATIME, clear: unix.MOUNT_ATTR__ATIME}, true
	case "norelatime", "strictatime":
		return attribute{set: unix.MOUNT_ATTR_STRICTATIME, clear: unix.MOUNT_ATTR__ATIME}, true
	case "nostrictatime", "atime":
		return attribute{set: unix.MOUNT_ATTR_RELATIME, clear: unix.MOUNT_ATTR__ATIME}, true
	case "noatime":
		return attribute{set: unix.MOUNT_ATTR_NOATIME, clear: unix.MOUNT_ATTR__ATIME}, true
	case "nosymfollow":
		return attribute{set: unix.MOUNT_ATTR_NOSYMFOLLOW}, true
	case "symfollow":
		return attribute{clear: unix.MOUNT_ATTR_NOSYMFOLLOW}, true
	}
	return attribute{}, false
}

// propagation returns the MS_* flags of a propagation option.
func propagation(name string) (uint64, bool) {
	base, rec := name, uint64(0)
	if strings.HasPrefix(name, "r") {
		base, rec = name[1:], unix.MS_REC
	}
	switch base {
	case "shared":
		return unix.MS_SHARED | rec, true
	case "slave":
		return unix.MS_SLAVE | rec, true
	case "private":
		return unix.MS_PRIVATE | rec, true
	case "unbindable":
		return unix.MS_UNBINDABLE | rec, true
	}
	return 0, false
}

// Propagation returns the MS_* flags of linux.rootfsPropagation, which are always
// recursive.
func Propagation(name string) uint64 {
	p, _ := propagation(name)
	if p != 0 {
		p |= unix.MS_REC
	}
	return p
}

// ParseOptions sorts mount options into what the kernel's mount API wants. An
// option it does not know is the filesystem's.
func ParseOptions(list []string) (Options, error) {
	var o Options
	for _, name := range list {
		if strings.IndexByte(name, 0) >= 0 {
			return o, fmt.Errorf("option %q contains a NUL byte", name)
		}
		if a, ok := attributes(name); ok {
			o.Set, o.Clear = o.Set&^a.clear|a.set, o.Clear&^a.set|a.clear
			continue
		}
		if p, ok := propagation(name); ok {
			o.Prop = p
			continue
		}
		if len(name) > 1 && name[0] == 'r' {
			if a, ok := attributes(name[1:]); ok {
				o.RecSet, o.RecClear = o.RecSet&^a.clear|a.set, o.RecClear&^a.set|a.clear
				continue
			}
		}
		o.other(name)
	}
	return o, nil
}

func (o *Options) other(name string) {
	switch name {
	case "defaults", "loud", "norelease":
	case "bind":
		o.Bind = true
	case "rbind":
		o.Bind, o.Recursive = true, true
	case "tmpcopyup":
		o.CopyUp = true
	case "idmap":
		o.IDMap = true
	case "ridmap":
		o.IDMap, o.RecIDMap = true, true
	case "tryidmap":
		o.IDMap, o.RecIDMap, o.TryIDMap = true, true, true
	case "async", "nomand", "nolazytime", "noiversion", "silent", "remount", "":
		// The defaults of every new filesystem.
	case "iversion":
		// Filesystems that count versions of inodes do so unasked, ext4 since Linux 6.0;
		// fsconfig(2) has no word for it.
	default:
		o.Data = append(o.Data, name)
	}
}

// MountAttr turns attributes for setting into what mount_setattr and fsmount take:
// the access time is one field, so setting it means clearing it first.
func MountAttr(set, clear uint64) *unix.MountAttr {
	if set&unix.MOUNT_ATTR__ATIME != 0 || clear&unix.MOUNT_ATTR__ATIME != 0 {
		clear |= unix.MOUNT_ATTR__ATIME
	}
	return &unix.MountAttr{Attr_set: set, Attr_clr: clear &^ (set &^ unix.MOUNT_ATTR__ATIME)}
}

// Names returns all mount options that are known, sorted.
func Names() []string {
	names := []string{
		"async", "bind", "defaults", "dirsync", "idmap", "iversion", "lazytime", "loud", "mand", "noiversion", "nolazytime", "nomand",
		"private", "rbind", "remount", "ridmap", "rprivate", "rshared", "rslave", "runbindable", "shared", "silent", "slave",
		"sync", "tmpcopyup", "unbindable",
	}
	for _, n := range []string{
		"atime", "dev", "diratime", "exec", "noatime", "nodev", "nodiratime", "noexec", "norelatime", "nostrictatime",
		"nosuid", "nosymfollow", "relatime", "ro", "rw", "strictatime", "suid", "symfollow",
	} {
		names = append(names, n, "r"+n)
	}
	sort.Strings(names)
	return names
}
