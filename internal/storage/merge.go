package storage

import (
	"context"
	"errors"
	iofs "io/fs"
	"os"
	"strings"

	goerofs "github.com/erofs/go-erofs"
	"golang.org/x/sys/unix"
)

// Merge lays the layer in an EROFS image over the tree in dir, which is then what overlayfs
// would show of both. dir may be a link in /proc/self/fd. With root the layer's root gives dir its owner, mode and time. The
// image is one of package layer's. It may have come from anybody, and so may the tree:
// each directory on the way to an entry is the layer's own, so that no link in the tree is
// ever followed. Nobody else may write to dir meanwhile.
func Merge(ctx context.Context, image, dir string, root bool) error {
	return diskFull(fill(ctx, image, &unpacker{dir: dir, links: map[int64]string{}, over: true, root: root}))
}

// opaqueAttribute says that a directory of a layer hides what is below.
const opaqueAttribute = "trusted.overlay.opaque"

// makeRoom takes away what an entry replaces, and reports whether nothing is to be made.
func (p *unpacker) makeRoom(name, path string, info iofs.FileInfo, st *goerofs.Stat) (done bool, err error) {
	opaque := st.Xattrs[opaqueAttribute] == "y"
	delete(st.Xattrs, opaqueAttribute) // it means something in a layer alone
	if name == "." {
		if p.root {
			p.finishDir(path, st)
		}
		return true, nil
	}
	old, err := os.Lstat(path)
	missing := errors.Is(err, iofs.ErrNotExist)
	if err != nil && !missing {
		return false, err
	}
	if st.Mode&iofs.ModeCharDevice != 0 && st.Rdev == 0 { // a whiteout
		return true, os.RemoveAll(path)
	}
	if missing {
		return false, nil
	}
	// A directory that hides what was there is made anew, as it was in the guest: so an
	// overlay in dir has it hide what is below as well, and need not hide each entry.
	if !old.IsDir() || !info.IsDir() || opaque {
		return false, os.RemoveAll(path)
	}
	p.finishDir(path, st)
	return true, dropAttributes(path, st)
}

// dropAttributes removes the attributes of a directory that the layer's has not, of those
// that layers keep.
func dropAttributes(dir string, st *goerofs.Stat) error {
	buffer := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Llistxattr(dir, buffer)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "llistxattr", Path: dir, Err: err}
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buffer[:n]), "\x00"), "\x00") {
		kept := strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "system.posix_acl_")
		_, has := st.Xattrs[name]
		_, hasList := st.Xattrs[name+"."] // as the library writes the names of access lists
		if !kept || has || hasList {
			continue
		}
		if err := unix.Lremovexattr(dir, name); err != nil {
			return &os.PathError{Op: "lremovexattr", Path: dir, Err: err}
		}
	}
	return nil
}
