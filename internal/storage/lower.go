package storage

import (
	"errors"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Has reports whether the layers, bottom first and mounted, have a file of the name
// when they are stacked. The name is taken from their root.
func (s *Storage) Has(layers []Layer, name string) (bool, error) {
	for _, l := range slices.Backward(layers) {
		found, hidden, err := look(s.LayerDir(l), name)
		if found || hidden || err != nil {
			return found, err
		}
	}
	return false, nil
}

// look looks for a file in one layer, and whether the layer hides those of the same
// name below it. It follows no symbolic link.
func look(layer, name string) (found, hidden bool, err error) {
	names := strings.Split(strings.Trim(path.Clean("/"+name), "/"), "/")
	at := layer
	for i, n := range names {
		at = filepath.Join(at, n)
		var st unix.Stat_t
		err := unix.Lstat(at, &st)
		switch {
		case errors.Is(err, unix.ENOENT):
			return false, hidden, nil
		case err != nil:
			return false, hidden, err
		case st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0: // overlayfs's whiteout
			return false, true, nil
		case i == len(names)-1:
			return true, hidden, nil
		case st.Mode&unix.S_IFMT != unix.S_IFDIR:
			return false, true, nil
		}
		hidden = hidden || isOpaque(at)
	}
	return true, hidden, nil
}

// isOpaque reports whether overlayfs shows nothing of lower layers in a directory. A
// layer unpacked in a user namespace has its marks under another name.
func isOpaque(dir string) bool {
	for _, name := range []string{"trusted.overlay.opaque", "user.overlay.opaque"} {
		var value [2]byte
		if n, err := unix.Lgetxattr(dir, name, value[:]); err == nil && string(value[:n]) == "y" {
			return true
		}
	}
	return false
}
