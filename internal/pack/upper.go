package pack

import (
	"archive/tar"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Marks of a layer: OCI image-spec, layer.md, "Whiteouts".
const (
	WhiteoutPrefix = ".wh."                                   // before the name of what is deleted
	OpaqueName     = WhiteoutPrefix + WhiteoutPrefix + ".opq" // in a directory that hides what is below
)

// Prefixes of overlayfs's own attributes: those of its option userxattr come second
// (Documentation/filesystems/overlayfs.rst).
var overlayPrefixes = []string{"trusted.overlay.", "user.overlay."}

// mark gives the header what only an image's layer has, and reports whether with that
// all is written: a file that is deleted, or one that was written by another name.
func (p *packer) mark(fd int, st *unix.Stat_t, hdr *tar.Header) (done bool, err error) {
	kind := st.Mode & unix.S_IFMT
	if p.Upper && kind == unix.S_IFCHR && st.Rdev == 0 {
		dir, name := path.Split(hdr.Name)
		return true, p.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: dir + WhiteoutPrefix + name, Mode: 0o600})
	}
	if strings.HasPrefix(path.Base(hdr.Name), WhiteoutPrefix) {
		return true, errors.New("a layer cannot hold a file of this name, which is the mark of a deletion; rename it")
	}
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		this := inode{st.Dev, st.Ino}
		if first, ok := p.links[this]; ok {
			hdr.Typeflag, hdr.Linkname = tar.TypeLink, first
			return true, p.w.WriteHeader(hdr)
		}
		p.links[this] = hdr.Name
	}
	return false, p.attributes(fd, hdr)
}

// attributes takes over the extended attributes that images keep: file capabilities,
// access lists, and what users set.
func (p *packer) attributes(fd int, hdr *tar.Header) error {
	names, err := attributeNames(fd)
	if err != nil {
		return err
	}
	for _, name := range names {
		switch {
		case strings.HasPrefix(name, overlayPrefixes[0]), strings.HasPrefix(name, overlayPrefixes[1]):
			if p.Upper && redirects(name) {
				return fmt.Errorf("overlayfs keeps its content elsewhere (%s), which no layer can say; copy it and remove this one", name)
			}
		case name == "security.capability", strings.HasPrefix(name, "user."), strings.HasPrefix(name, "system.posix_acl_"):
			value, err := attribute(fd, name)
			if err != nil {
				return err
			}
			if name == "security.capability" {
				value = withoutRoot(value)
			}
			if hdr.PAXRecords == nil {
				hdr.PAXRecords = map[string]string{}
			}
			hdr.PAXRecords["SCHILY.xattr."+name] = value
		}
	}
	return nil
}

// redirects reports whether an attribute of overlayfs leads from its file to another.
func redirects(name string) bool {
	return strings.HasSuffix(name, ".redirect") || strings.HasSuffix(name, ".metacopy")
}

// opaque writes the mark of a directory that hides what lower layers have in it.
func (p *packer) opaque(fd int, dir string) error {
	for _, prefix := range overlayPrefixes {
		value, err := attribute(fd, prefix+"opaque")
		if err != nil {
			return err
		}
		if value == "y" {
			return p.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path.Join(dir, OpaqueName), Mode: 0o600})
		}
	}
	return nil
}

// Sizes of a file capability, in bytes: vfs_cap_data and vfs_ns_cap_data of
// linux/capability.h. The latter ends with the id of the user namespace's root.
const (
	capabilitySize   = 20
	capabilityNSSize = 24

	revisionMask = 0xff000000
	revision2    = 0x02000000
	revision3    = 0x03000000
)

// withoutRoot makes of a capability that counts in one user namespace one that counts
// wherever the layer is used.
func withoutRoot(value string) string {
	if len(value) != capabilityNSSize {
		return value
	}
	data := []byte(value[:capabilitySize])
	magic := binary.LittleEndian.Uint32(data)
	if magic&revisionMask != revision3 {
		return value
	}
	binary.LittleEndian.PutUint32(data, magic&^revisionMask|revision2)
	return string(data)
}

// attributeNames lists the extended attributes of what fd names, a symbolic link's
// own. A filesystem without them has none.
func attributeNames(fd int) ([]string, error) {
	list, err := grow(func(b []byte) (int, error) { return unix.Listxattr(self(fd), b) })
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(list), "\x00"), "\x00"), nil
}

// attribute returns an extended attribute, "" where there is none.
func attribute(fd int, name string) (string, error) {
	value, err := grow(func(b []byte) (int, error) { return unix.Getxattr(self(fd), name, b) })
	return string(value), err
}

// maxAttribute is the most that the kernel returns: XATTR_SIZE_MAX, XATTR_LIST_MAX.
const maxAttribute = 64 << 10

// grow calls read with a buffer that is large enough.
func grow(read func([]byte) (int, error)) ([]byte, error) {
	for size := 256; ; size = maxAttribute {
		b := make([]byte, size)
		switch n, err := read(b); {
		case errors.Is(err, unix.ERANGE) && size < maxAttribute:
		case errors.Is(err, unix.ENODATA), errors.Is(err, unix.EOPNOTSUPP):
			return nil, nil
		case err != nil:
			return nil, err
		default:
			return b[:n], nil
		}
	}
}
