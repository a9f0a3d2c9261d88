// Package layer turns an OCI layer, a tar archive from a stranger, into an
// EROFS image.
//
// Nothing is ever unpacked on the host: entries go into a tree in memory and
// their content into the image file, so a name that points out of the root, or
// through a symbolic link, has nothing to point at. Such names are refused all
// the same, because no honest archive has them:
//
//   - a component "..", an empty name, a NUL, a name beyond 255 or 4096 bytes;
//   - an absolute name, unless Options.Absolute says that it is relative to the
//     root (some builders of images write those);
//   - an entry below something that is no directory: a symbolic link that the
//     archive made, to write through it (CVE-2021-32760's class);
//   - a hard link to something that is not in the layer;
//   - block devices, and character devices that reach memory or hardware;
//   - sizes, counts and expansion beyond Limits: bombs.
//
// Whiteouts, the OCI image-spec's marks for what a layer deletes (layer.md),
// become what overlayfs understands: a character device 0:0, and the attribute
// trusted.overlay.opaque on a directory.
package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image/erofs"
)

// Limits bound what one layer may expand to. The zero value of a field means
// the default.
type Limits struct {
	Size    int64 // bytes of all files and metadata; default 64 GiB
	Entries int   // default 500,000: about 100 MiB of memory
	Ratio   int64 // expanded to archived bytes, beyond the first GiB; default 1,000
}

const (
	defaultSize    = 64 << 30
	defaultEntries = 500_000
	defaultRatio   = 1000
	ratioFrom      = 1 << 30
	maxPath        = 4096
	// entryCost is what each entry counts towards Size besides its content, so
	// that a flood of empty entries is bounded like one large file.
	entryCost = 512
)

func (l Limits) withDefaults() Limits {
	if l.Size == 0 {
		l.Size = defaultSize
	}
	if l.Entries == 0 {
		l.Entries = defaultEntries
	}
	if l.Ratio == 0 {
		l.Ratio = defaultRatio
	}
	return l
}

// Reader bounds what r, a layer that is read and not converted, expands to. Archived is
// as in Options, and may not be nil.
func (l Limits) Reader(r io.Reader, archived func() int64) io.Reader {
	return &bounded{in: r, limits: l.withDefaults(), archived: archived}
}

type bounded struct {
	in       io.Reader
	limits   Limits
	archived func() int64
	spent    int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.in.Read(p)
	b.spent += int64(n)
	if b.spent > b.limits.Size {
		return n, b.limits.exceeded()
	}
	if e := b.limits.checkRatio(b.spent, b.archived()); e != nil {
		return n, e
	}
	return n, err
}

// exceeded is the error of a layer that is too large.
func (l Limits) exceeded() error {
	return api.E("", api.Exhausted, "", fmt.Errorf("refused: the layer expands beyond %d bytes", l.Size))
}

// checkRatio finds bombs: archives that expand beyond what compression of real
// content ever gives.
func (l Limits) checkRatio(spent, archived int64) error {
	if spent >= ratioFrom && archived > 0 && spent/archived > l.Ratio {
		return api.E("", api.Exhausted, "", fmt.Errorf("refused: a bomb, %d archived bytes expand to %d", archived, spent))
	}
	return nil
}

// Options say how an archive is to be read.
type Options struct {
	Limits Limits
	// Absolute accepts names that begin with a slash, as relative to the root.
	// Layers of images need it (ko writes them so); root filesystems do not.
	Absolute bool
	// Root reads the archive of a whole root filesystem: whiteouts are plain
	// names, and an archive without its end mark is truncated.
	Root bool
	// Stargz reads an eStargz layer, for the same image that Outline makes of its table of
	// contents: see there.
	Stargz bool
	// Archived returns how many bytes of the archive have been read by now, as
	// it came: compressed. It may be nil: then there is no limit to the ratio.
	Archived func() int64
}

// Stats tell what a layer holds.
type Stats struct {
	Entries int
	Content int64 // bytes in regular files, hard links counted once
	Image   int64 // bytes of the EROFS image
}

// Convert writes the layer that tarball holds, uncompressed, as an EROFS image
// to out, which must be empty. It reads tarball to its end. An error about the
// archive is an *api.Error of kind Corrupt (broken), Invalid (hostile) or
// Exhausted (too large); whatever is in out is then useless.
func Convert(ctx context.Context, out erofs.File, tarball io.Reader, opt Options) (Stats, error) {
	opt.Limits = opt.Limits.withDefaults()
	end := &endReader{r: tarball}
	c := &converter{
		opt:  opt,
		w:    erofs.NewWriter(out),
		root: erofs.NewDir(erofs.Attr{Mode: 0o755}),
		in:   tar.NewReader(end),
	}
	if opt.Stargz {
		c.w.KeepApart()
	}
	if err := c.run(ctx, end); err != nil {
		return c.stats, err
	}
	var err error
	c.stats.Image, err = c.w.Close(c.root)
	return c.stats, err
}

type converter struct {
	opt   Options
	w     *erofs.Writer
	root  *erofs.Node
	in    *tar.Reader
	place func(h *tar.Header, at int64) // of Outline; nil where in has the content
	stats Stats
	spent int64
}

func (c *converter) run(ctx context.Context, end *endReader) error {
	for {
		if err := ctx.Err(); err != nil {
			return api.E("", api.Canceled, "", err)
		}
		h, err := c.in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return broken(err)
		}
		if err := c.entry(h); err != nil {
			return named(h.Name, err)
		}
	}
	if c.opt.Root && !end.marked() {
		return truncated()
	}
	// A reader that computes the layer's digest needs what follows the mark.
	if n, err := io.Copy(io.Discard, io.LimitReader(end, 1<<30)); err != nil {
		return broken(err)
	} else if n == 1<<30 {
		return api.E("", api.Invalid, "", errors.New("more than 1 GiB follows the end of the archive"))
	}
	return nil
}

// broken classes an error of the tar reader or of what it reads from.
func broken(err error) error {
	var known *api.Error
	switch {
	case errors.As(err, &known):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return truncated()
	case errors.Is(err, tar.ErrHeader), errors.Is(err, tar.ErrFieldTooLong):
		return api.E("", api.Corrupt, "", fmt.Errorf("not a tar archive, or a damaged one: %w", err))
	}
	return api.E("", "", "", err)
}

func truncated() error {
	return api.E("", api.Corrupt, "", errors.New("the archive is truncated; fetch or make it again"))
}

// hostile makes the error for an entry that no honest archive has.
func hostile(format string, args ...any) error {
	return api.E("", api.Invalid, "", fmt.Errorf("refused: "+format, args...))
}

// named adds the entry's name to an error, unless it is one of the host.
func named(name string, err error) error {
	var known *api.Error
	if errors.As(err, &known) && known.Name == "" && known.Kind != api.Canceled {
		return api.E("", known.Kind, "", fmt.Errorf("entry %.300q: %w", name, err))
	}
	return err
}

// entry adds what one header describes.
func (c *converter) entry(h *tar.Header) error {
	if err := c.account(h); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		return nil // git archive's comment
	case tar.TypeReg, tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo, tar.TypeGNUSparse, tar.TypeCont:
	default:
		return hostile("unknown type %q", h.Typeflag)
	}
	parts, err := c.split(h.Name)
	if err != nil {
		return err
	}
	if c.opt.Stargz {
		h.ModTime = h.ModTime.Round(time.Second)
	}
	if len(parts) == 0 {
		if h.Typeflag != tar.TypeDir {
			return hostile("the root is not a directory")
		}
		return c.setDir(c.root, h)
	}
	if skip, err := c.reserved(parts); skip || err != nil {
		return err
	}
	if c.opt.Stargz && ofStargz(parts) {
		return nil
	}
	dir, err := c.parent(parts)
	if err != nil {
		return err
	}
	name := parts[len(parts)-1]
	if !c.opt.Root && strings.HasPrefix(name, whiteoutPrefix) {
		return c.whiteout(dir, name)
	}
	if h.Typeflag == tar.TypeDir {
		return c.directory(dir, name, h)
	}
	node, err := c.node(h)
	if err != nil {
		return err
	}
	dir.Children[name] = node // the last of several entries counts, as with tar
	return nil
}

// account keeps the limits.
func (c *converter) account(h *tar.Header) error {
	c.stats.Entries++
	if c.stats.Entries > c.opt.Limits.Entries {
		return api.E("", api.Exhausted, "", fmt.Errorf("more than %d entries in one layer", c.opt.Limits.Entries))
	}
	cost := int64(entryCost + len(h.Name) + len(h.Linkname))
	for k, v := range h.PAXRecords {
		cost += int64(len(k) + len(v))
	}
	c.spent += cost
	// The size that a header promises counts before its content is read: a
	// sparse header of a few bytes may promise terabytes.
	if h.Size < 0 || h.Size > c.opt.Limits.Size-c.spent {
		return c.opt.Limits.exceeded()
	}
	c.stats.Content += h.Size
	return c.checkRatio()
}

// checkRatio is that of the limits, where the size of the archive is known.
func (c *converter) checkRatio() error {
	if c.opt.Archived == nil {
		return nil
	}
	return c.opt.Limits.checkRatio(c.spent, c.opt.Archived())
}

// content reads the current entry's content and counts it.
type content struct{ c *converter }

func (r content) Read(p []byte) (int, error) {
	n, err := r.c.in.Read(p)
	r.c.spent += int64(n)
	if over := r.c.checkRatio(); over != nil {
		return 0, over // not n: io.ReadFull drops the error of a full read
	}
	return n, err
}

// split returns the components of an entry's name, none for the root.
func (c *converter) split(name string) ([]string, error) {
	if strings.HasPrefix(name, "/") && !c.opt.Absolute && strings.Trim(name, "/") != "" {
		return nil, hostile("an absolute name; make the archive relative to its root")
	}
	return components(name)
}

// components splits a path within the root.
func components(name string) ([]string, error) {
	if name == "" {
		return nil, hostile("an empty name")
	}
	if len(name) > maxPath {
		return nil, hostile("a name of %d bytes", len(name))
	}
	if strings.IndexByte(name, 0) >= 0 {
		return nil, hostile("a name with a NUL byte")
	}
	parts := make([]string, 0, strings.Count(name, "/")+1)
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
		case part == "..":
			return nil, hostile("%q leads out of the root", "..")
		case len(part) > erofs.MaxName:
			return nil, hostile("a name of %d bytes", len(part))
		default:
			parts = append(parts, part)
		}
	}
	return parts, nil
}

// parent returns the directory that holds the entry. Directories that the
// archive left out come into being, owned by root.
func (c *converter) parent(parts []string) (*erofs.Node, error) {
	dir := c.root
	for i, part := range parts[:len(parts)-1] {
		next, ok := dir.Children[part]
		switch {
		case !ok || isWhiteout(next):
			fresh := erofs.NewDir(erofs.Attr{Mode: 0o755})
			if ok {
				setOpaque(fresh)
			}
			dir.Children[part] = fresh
			next = fresh
		case !next.IsDir():
			what := "file"
			if next.Kind() == unix.S_IFLNK {
				what = "symbolic link"
			}
			return nil, hostile("it passes through the %s %q", what, strings.Join(parts[:i+1], "/"))
		}
		dir = next
	}
	return dir, nil
}

// directory adds a directory or gives an existing one its attributes.
func (c *converter) directory(parent *erofs.Node, name string, h *tar.Header) error {
	old, ok := parent.Children[name]
	if ok && old.IsDir() {
		return c.setDir(old, h)
	}
	fresh := erofs.NewDir(erofs.Attr{})
	if ok && isWhiteout(old) {
		setOpaque(fresh) // the layer deletes the old directory and makes a new one
	}
	parent.Children[name] = fresh
	return c.setDir(fresh, h)
}

func (c *converter) setDir(dir *erofs.Node, h *tar.Header) error {
	a, err := attributes(h)
	if err != nil {
		return err
	}
	opaque := isOpaque(dir)
	dir.Attr = a
	if opaque {
		setOpaque(dir)
	}
	return nil
}

// node writes the inode of everything that is not a directory.
func (c *converter) node(h *tar.Header) (*erofs.Node, error) {
	if h.Typeflag == tar.TypeLink {
		return c.linked(h.Linkname)
	}
	a, err := attributes(h)
	if err != nil {
		return nil, err
	}
	switch h.Typeflag {
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) > erofs.MaxTarget || strings.IndexByte(h.Linkname, 0) >= 0 {
			return nil, hostile("a symbolic link with a target of %d bytes", len(h.Linkname))
		}
		return c.w.Symlink(a, h.Linkname)
	case tar.TypeFifo:
		a.Mode = unix.S_IFIFO | a.Mode&0o7777
		return c.w.Special(a)
	case tar.TypeChar, tar.TypeBlock:
		if err := checkDevice(h); err != nil {
			return nil, err
		}
		a.Mode = unix.S_IFCHR | a.Mode&0o7777
		a.Major, a.Minor = uint32(h.Devmajor), uint32(h.Devminor)
		return c.w.Special(a)
	}
	if c.place != nil {
		return c.reserve(a, h)
	}
	n, err := c.w.Regular(a, h.Size, content{c})
	if err != nil {
		return nil, broken(err)
	}
	return n, nil
}

// linked finds the target of a hard link: something in this layer that is no
// directory. Symbolic links on the way are not followed.
func (c *converter) linked(target string) (*erofs.Node, error) {
	parts, err := components(target)
	if err != nil {
		return nil, err
	}
	at := c.root
	for _, part := range parts {
		if !at.IsDir() || at.Children[part] == nil {
			return nil, hostile("a hard link to %.300q, which is not in the layer", target)
		}
		at = at.Children[part]
	}
	if at.IsDir() || isWhiteout(at) {
		return nil, hostile("a hard link to %.300q, which is no file", target)
	}
	return at, nil
}

// checkDevice lets those character devices through that an image may hold and
// that grant nothing by themselves. Instances see them on mounts with nodev
// anyway; this keeps them out of the files that people copy.
func checkDevice(h *tar.Header) error {
	if h.Typeflag == tar.TypeChar {
		switch h.Devmajor {
		case 0: // 0:0: a whiteout, in images that hold overlayfs layers
			if h.Devminor == 0 {
				return nil
			}
		case 1: // null, zero, full, random, urandom; not mem, kmem, port, kmsg
			switch h.Devminor {
			case 3, 5, 7, 8, 9:
				return nil
			}
		case 4, 5, 136: // terminals
			return nil
		case 10: // fuse and tun
			if h.Devminor == 229 || h.Devminor == 200 {
				return nil
			}
		}
		return hostile("character device %d:%d", h.Devmajor, h.Devminor)
	}
	return hostile("block device %d:%d", h.Devmajor, h.Devminor)
}

// attributes takes over what a header says about the inode.
func attributes(h *tar.Header) (erofs.Attr, error) {
	const maxID = 1<<32 - 2 // -1 means "no id" to chown(2)
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) > maxID || int64(h.Gid) > maxID {
		return erofs.Attr{}, hostile("owner %d:%d is out of range", h.Uid, h.Gid)
	}
	a := erofs.Attr{Mode: uint32(h.Mode) & 0o7777, UID: uint32(h.Uid), GID: uint32(h.Gid)}
	if !h.ModTime.IsZero() {
		a.Mtime, a.MtimeNs = h.ModTime.Unix(), uint32(h.ModTime.Nanosecond())
	}
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok || !keepXattr(name, value) {
			continue
		}
		if a.Xattrs == nil {
			a.Xattrs = map[string]string{}
		}
		a.Xattrs[name] = value
	}
	return a, nil
}

// keepXattr tells which attributes come along: file capabilities, access
// lists, and what users set. Not trusted.* and user.overlay.*, with which a
// layer could redirect overlayfs, nor labels of another host's policy.
func keepXattr(name, value string) bool {
	if len(name) > erofs.MaxName || len(value) > 1<<16-1 {
		return false
	}
	switch name {
	case "security.capability":
		return true
	case "system.posix_acl_access", "system.posix_acl_default":
		// A version word, then entries of eight bytes: linux/posix_acl_xattr.h.
		return len(value) >= 4 && value[:4] == "\x02\x00\x00\x00" && (len(value)-4)%8 == 0
	}
	return strings.HasPrefix(name, "user.") && len(name) > len("user.") && !strings.HasPrefix(name, "user.overlay.")
}

// endReader remembers whether the archive's end mark, a block of zeros, was
// the last thing read from it: archive/tar takes a stream that ends between
// two entries for complete.
type endReader struct {
	r    io.Reader
	last [512]byte
	read int64
}

func (e *endReader) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	e.read += int64(n)
	if n >= len(e.last) {
		copy(e.last[:], p[n-len(e.last):n])
	} else if n > 0 {
		copy(e.last[:], e.last[n:])
		copy(e.last[len(e.last)-n:], p[:n])
	}
	return n, err
}

func (e *endReader) marked() bool {
	return e.read >= int64(len(e.last)) && e.last == [512]byte{}
}
