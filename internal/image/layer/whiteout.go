package layer

import (
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/image/erofs"
	"github.com/berthcloud/berth/internal/pack"
)

// Names of the OCI image-spec's layer.md, "Whiteouts". Names with the doubled
// prefix are aufs's own; of those only the opaque mark means something.
const (
	whiteoutPrefix = pack.WhiteoutPrefix
	metaPrefix     = whiteoutPrefix + whiteoutPrefix
	opaqueName     = pack.OpaqueName
)

// opaqueXattr makes overlayfs hide what lower layers have in a directory:
// Documentation/filesystems/overlayfs.rst.
const opaqueXattr = "trusted.overlay.opaque"

// reserved reports whether an entry is to be skipped because it is one of
// aufs's own, which old images have. Below any other mark there can be none.
func (c *converter) reserved(parts []string) (skip bool, err error) {
	if c.opt.Root {
		return false, nil
	}
	for i, part := range parts {
		switch last := i == len(parts)-1; {
		case last && part == opaqueName:
		case strings.HasPrefix(part, metaPrefix):
			return true, nil
		case !last && strings.HasPrefix(part, whiteoutPrefix):
			return false, hostile("it is below the whiteout %q", part)
		}
	}
	return false, nil
}

// whiteout applies a mark in dir. It says nothing about entries of the same
// layer, whichever comes first: those stay.
func (c *converter) whiteout(dir *erofs.Node, name string) error {
	if name == opaqueName {
		setOpaque(dir)
		return nil
	}
	hidden := name[len(whiteoutPrefix):]
	if hidden == "" || hidden == "." || hidden == ".." {
		return hostile("a whiteout of %q", hidden)
	}
	if old, ok := dir.Children[hidden]; ok {
		if old.IsDir() {
			setOpaque(old)
		}
		return nil
	}
	n, err := c.w.Special(erofs.Attr{Mode: unix.S_IFCHR})
	if err != nil {
		return err
	}
	n.Marked = true // unlike a device 0:0 that the archive names
	dir.Children[hidden] = n
	return nil
}

func isWhiteout(n *erofs.Node) bool { return n.Marked }

func isOpaque(dir *erofs.Node) bool { return dir.Attr.Xattrs[opaqueXattr] == "y" }

func setOpaque(dir *erofs.Node) {
	if dir.Attr.Xattrs == nil {
		dir.Attr.Xattrs = map[string]string{}
	}
	dir.Attr.Xattrs[opaqueXattr] = "y"
}
