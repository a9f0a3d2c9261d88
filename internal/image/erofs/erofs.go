// Package erofs writes EROFS filesystem images in one pass over their content.
//
// EROFS is the kernel's read-only filesystem; the format is that of
// fs/erofs/erofs_fs.h. The writer uses its uncompressed part: plain and inline
// data, extended inodes, inline extended attributes. Everything it is given is
// appended to the file as it arrives, so that memory grows with the number of
// entries and not with their content:
//
//	block 0      superblock at byte 1024, then the root's inode
//	block 1…     in order of arrival: data blocks of files, and metadata
//	             blocks filled with inodes, each followed by its extended
//	             attributes and, where it is small, its content
//	at the end   the entries of large directories, then the inodes of all
//	             directories with the entries of small ones
//
// meta_blkaddr is 0, so that an inode may live in any block of the image; the
// root must be within the first 2 MiB because its number has 16 bits, hence
// block 0.
//
// Not erofs/go-erofs, which is used here as an oracle in tests: it has no hard
// links, and spools all content to a second file before it writes the image.
package erofs

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// BlockSize is the size of a filesystem block in bytes, and the unit in which
// images grow.
const BlockSize = 4096

// Sizes and positions of the format, in bytes.
const (
	superOffset = 1024
	superSize   = 128
	rootOffset  = superOffset + superSize
	slotSize    = 32 // inode numbers count these
	inodeSize   = 64 // of an extended inode: two slots
	direntSize  = 12
	xattrHeader = 12

	// inlineMax bounds content kept behind its inode. A larger file has blocks
	// of its own, so that at most half of a metadata block can stay empty.
	inlineMax = 2048

	// maxXattrs bounds the attributes of one inode: i_xattr_icount has 16 bits.
	maxXattrs = 256 << 10

	// holeSize is the unit in which zeros in large files become holes of the
	// image file instead of bytes on the host's disk.
	holeSize  = 64 << 10
	writeSize = 1 << 20
)

// Bounds that the format or the kernel sets, in bytes.
const (
	MaxName   = 255  // of one component
	MaxTarget = 4095 // of a symbolic link
)

const (
	layoutPlain  = 0
	layoutInline = 2

	featureChecksum = 1
	featureMtime    = 2
	superMagic      = 0xE0F5E1E2
)

// Attr is what an inode says about itself.
type Attr struct {
	Mode     uint32 // type and permission bits as in stat(2)
	UID, GID uint32
	Mtime    int64             // seconds since 1970
	MtimeNs  uint32            // nanoseconds
	Major    uint32            // of a device
	Minor    uint32            // of a device
	Xattrs   map[string]string // by full name, as in "user.comment"
}

// Node is one inode of an image: made by a Writer's methods, except for
// directories, which NewDir makes and the caller fills. A node that is not a
// directory may stand under several names: hard links.
type Node struct {
	*Dir        // nil for all but directories
	Marked bool // for the caller's use

	kind   uint32 // the type bits of the mode
	nid    uint64
	links  uint32 // counted by Close
	record uint32 // offset in the open metadata block until that is flushed
}

// Dir is what a directory has beside its inode. Of other inodes only the
// number is remembered, which keeps a layer of half a million files in 100 MiB.
type Dir struct {
	Attr     Attr
	Children map[string]*Node // by name

	entries int64  // size of the entries in bytes
	inline  bool   // whether they stand behind the inode
	block   uint32 // where they stand otherwise
}

// NewDir returns an empty directory. The type bits of a.Mode are ignored.
func NewDir(a Attr) *Node {
	return &Node{Dir: &Dir{Attr: a, Children: map[string]*Node{}}, kind: unix.S_IFDIR}
}

// IsDir reports whether n is a directory.
func (n *Node) IsDir() bool { return n.Dir != nil }

// Kind returns the type bits of n's mode, as in unix.S_IFREG.
func (n *Node) Kind() uint32 { return n.kind }

// File is what an image is written to: an *os.File, empty.
type File interface {
	io.WriterAt
	Truncate(size int64) error
}

// Writer writes one image. Its methods may not be called concurrently, nor
// after one of them has returned an error.
type Writer struct {
	f       File
	buf     []byte // bytes not yet written, to go to offset off
	off     int64
	meta    []byte  // the open metadata block
	pending []*Node // whose inodes stand in meta
	apart   bool    // as KeepApart says
}

// NewWriter returns a Writer to f, which must be empty.
func NewWriter(f File) *Writer {
	return &Writer{f: f, off: BlockSize, buf: make([]byte, 0, writeSize), meta: make([]byte, 0, BlockSize)}
}

// KeepApart gives the content of every regular file blocks of its own, however small it
// is: Regular then places it where Reserve would. It is called before anything is added.
func (w *Writer) KeepApart() { w.apart = true }

// Size returns how many bytes the image has by now, without the directories.
func (w *Writer) Size() int64 { return w.off + int64(len(w.buf)) + int64(len(w.meta)) }

// Regular adds a regular file with size bytes of r. It is an error for r to
// have less.
func (w *Writer) Regular(a Attr, size int64, r io.Reader) (*Node, error) {
	a.Mode = unix.S_IFREG | a.Mode&0o7777
	if size < 0 {
		return nil, fmt.Errorf("file of %d bytes", size)
	}
	if size == 0 || size <= inlineMax && !w.apart {
		data := make([]byte, size)
		if _, err := io.ReadFull(r, data); err != nil {
			return nil, noEOF(err)
		}
		return w.add(a, data)
	}
	block, err := w.position()
	if err != nil {
		return nil, err
	}
	if err := w.copyData(r, size); err != nil {
		return nil, err
	}
	return w.record(a, layoutPlain, uint64(size), block, nil)
}

// Reserve adds a regular file of which only the size in bytes is known: its content is a
// hole of the image, and belongs at the offset at.
func (w *Writer) Reserve(a Attr, size int64) (n *Node, at int64, err error) {
	a.Mode = unix.S_IFREG | a.Mode&0o7777
	if size < 0 {
		return nil, 0, fmt.Errorf("file of %d bytes", size)
	}
	if size == 0 {
		n, err = w.add(a, nil)
		return n, 0, err
	}
	block, err := w.position()
	if err == nil {
		err = w.flush()
	}
	if err != nil {
		return nil, 0, err
	}
	w.off += (size + BlockSize - 1) / BlockSize * BlockSize
	n, err = w.record(a, layoutPlain, uint64(size), block, nil)
	return n, int64(block) * BlockSize, err
}

// Symlink adds a symbolic link to target.
func (w *Writer) Symlink(a Attr, target string) (*Node, error) {
	if target == "" || len(target) > MaxTarget || strings.IndexByte(target, 0) >= 0 {
		return nil, fmt.Errorf("symbolic link with a target of %d bytes", len(target))
	}
	a.Mode = unix.S_IFLNK | 0o777
	return w.add(a, []byte(target))
}

// Special adds a device, a FIFO or a socket, as a.Mode says.
func (w *Writer) Special(a Attr) (*Node, error) {
	dev := uint32(0)
	switch a.Mode & unix.S_IFMT {
	case unix.S_IFCHR, unix.S_IFBLK:
		if a.Major >= 1<<12 || a.Minor >= 1<<20 {
			return nil, fmt.Errorf("device number %d:%d out of range", a.Major, a.Minor)
		}
		// The kernel's new_encode_dev.
		dev = a.Minor&0xff | a.Major<<8 | a.Minor&^0xff<<12
	case unix.S_IFIFO, unix.S_IFSOCK:
	default:
		return nil, fmt.Errorf("mode %#o is not of a special file", a.Mode)
	}
	return w.record(a, layoutPlain, 0, dev, nil)
}

// add writes an inode with small content behind it, or in blocks of its own
// where the attributes leave no room in a block.
func (w *Writer) add(a Attr, data []byte) (*Node, error) {
	x, err := xattrSize(a.Xattrs)
	if err != nil {
		return nil, err
	}
	if len(data) > 0 && inodeSize+x+len(data) <= BlockSize {
		return w.record(a, layoutInline, uint64(len(data)), 0, data)
	}
	block := uint32(0)
	if len(data) > 0 {
		if block, err = w.position(); err != nil {
			return nil, err
		}
		if err := w.copyData(bytes.NewReader(data), int64(len(data))); err != nil {
			return nil, err
		}
	}
	return w.record(a, layoutPlain, uint64(len(data)), block, nil)
}

// position returns the block at which appended bytes will stand.
func (w *Writer) position() (uint32, error) {
	block := (w.off + int64(len(w.buf))) / BlockSize
	if block >= 1<<32-1 {
		return 0, errors.New("image beyond 16 TiB")
	}
	return uint32(block), nil
}

// copyData appends size bytes of r and pads them to a block.
func (w *Writer) copyData(r io.Reader, size int64) error {
	for left := size; left > 0; {
		n := int(min(left, holeSize))
		if err := w.reserve(n); err != nil {
			return err
		}
		chunk := w.buf[len(w.buf) : len(w.buf)+n]
		if _, err := io.ReadFull(r, chunk); err != nil {
			return noEOF(err)
		}
		left -= int64(n)
		if n == holeSize && allZero(chunk) {
			if err := w.flush(); err != nil {
				return err
			}
			w.off += int64(n)
			continue
		}
		w.buf = w.buf[:len(w.buf)+n]
	}
	return w.pad()
}

// reserve makes room for n more bytes in the buffer.
func (w *Writer) reserve(n int) error {
	if cap(w.buf)-len(w.buf) >= n {
		return nil
	}
	return w.flush()
}

func (w *Writer) append(p []byte) error {
	for len(p) > 0 {
		n := min(len(p), holeSize)
		if err := w.reserve(n); err != nil {
			return err
		}
		w.buf = append(w.buf, p[:n]...)
		p = p[n:]
	}
	return nil
}

// pad appends zeros up to the end of the block.
func (w *Writer) pad() error {
	if rest := (w.off + int64(len(w.buf))) % BlockSize; rest != 0 {
		return w.append(make([]byte, BlockSize-rest))
	}
	return nil
}

func (w *Writer) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	if _, err := w.f.WriteAt(w.buf, w.off); err != nil {
		return err
	}
	w.off += int64(len(w.buf))
	w.buf = w.buf[:0]
	return nil
}

// record puts an inode, its attributes and inline content into the metadata
// block. What is larger than a block gets contiguous blocks of its own.
func (w *Writer) record(a Attr, layout uint16, size uint64, data uint32, inline []byte) (*Node, error) {
	x, err := xattrSize(a.Xattrs)
	if err != nil {
		return nil, err
	}
	n := &Node{kind: a.Mode & unix.S_IFMT}
	b := make([]byte, 0, inodeSize+x+len(inline))
	b = appendInode(b, a, layout, size, data, 1, x)
	b = append(b, inline...)
	if len(w.meta)+len(b) > BlockSize {
		if err := w.flushMeta(); err != nil {
			return nil, err
		}
	}
	n.record = uint32(len(w.meta))
	w.meta = append(w.meta, b...)
	w.meta = alignSlot(w.meta)
	w.pending = append(w.pending, n)
	return n, nil
}

// flushMeta appends the open metadata block, which tells the numbers of the
// inodes in it.
func (w *Writer) flushMeta() error {
	if len(w.meta) == 0 {
		return nil
	}
	block, err := w.position()
	if err != nil {
		return err
	}
	for _, n := range w.pending {
		n.nid = (uint64(block)*BlockSize + uint64(n.record)) / slotSize
	}
	if err := w.append(w.meta); err != nil {
		return err
	}
	w.meta, w.pending = w.meta[:0], w.pending[:0]
	return w.pad()
}

func alignSlot(b []byte) []byte {
	for len(b)%slotSize != 0 {
		b = append(b, 0)
	}
	return b
}

// appendInode appends an extended inode and its attributes, which take x bytes.
func appendInode(b []byte, a Attr, layout uint16, size uint64, data uint32, links uint32, x int) []byte {
	le := binary.LittleEndian
	count := uint16(0)
	if x > 0 {
		count = uint16((x-xattrHeader)/4 + 1)
	}
	b = le.AppendUint16(b, 1|layout<<1) // extended
	b = le.AppendUint16(b, count)
	b = le.AppendUint16(b, uint16(a.Mode))
	b = le.AppendUint16(b, 0)
	b = le.AppendUint64(b, size)
	b = le.AppendUint32(b, data)
	b = le.AppendUint32(b, 0) // i_ino: only for 32-bit kernels' stat
	b = le.AppendUint32(b, a.UID)
	b = le.AppendUint32(b, a.GID)
	b = le.AppendUint64(b, uint64(a.Mtime))
	b = le.AppendUint32(b, a.MtimeNs)
	b = le.AppendUint32(b, links)
	b = append(b, make([]byte, 16)...)
	if x == 0 {
		return b
	}
	b = append(b, make([]byte, xattrHeader)...)
	for _, name := range slices.Sorted(maps.Keys(a.Xattrs)) {
		index, suffix, _ := xattrIndex(name)
		value := a.Xattrs[name]
		b = append(b, byte(len(suffix)), index)
		b = le.AppendUint16(b, uint16(len(value)))
		b = append(b, suffix...)
		b = append(b, value...)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
	}
	return b
}

// linksOffset is where an extended inode keeps i_nlink.
const linksOffset = 44

// xattrIndex splits a name into the number of its prefix and the rest.
func xattrIndex(name string) (index byte, suffix string, ok bool) {
	switch name {
	case "system.posix_acl_access":
		return 2, "", true
	case "system.posix_acl_default":
		return 3, "", true
	}
	for _, p := range [...]struct {
		index  byte
		prefix string
	}{{1, "user."}, {4, "trusted."}, {6, "security."}} {
		if rest, found := strings.CutPrefix(name, p.prefix); found && rest != "" {
			return p.index, rest, true
		}
	}
	return 0, "", false
}

// xattrSize returns how many bytes attributes take on disk.
func xattrSize(xattrs map[string]string) (int, error) {
	if len(xattrs) == 0 {
		return 0, nil
	}
	size := xattrHeader
	for name, value := range xattrs {
		_, suffix, ok := xattrIndex(name)
		switch {
		case !ok:
			return 0, fmt.Errorf("extended attribute %q is of no known class", name)
		case len(suffix) > MaxName || strings.IndexByte(suffix, 0) >= 0:
			return 0, fmt.Errorf("extended attribute with a name of %d bytes", len(name))
		case len(value) > 1<<16-1:
			return 0, fmt.Errorf("extended attribute %q has %d bytes, more than 65535", name, len(value))
		}
		size += (4 + len(suffix) + len(value) + 3) &^ 3
	}
	if size > maxXattrs {
		return 0, fmt.Errorf("extended attributes of %d bytes, more than %d", size, maxXattrs)
	}
	return size, nil
}

// Close writes the directories below root and the superblock, and returns the
// size of the image. It does not close the file.
func (w *Writer) Close(root *Node) (int64, error) {
	if err := w.flushMeta(); err != nil {
		return 0, err
	}
	t := tree{w: w, root: root}
	if err := t.layOut(); err != nil {
		return 0, err
	}
	if err := t.write(); err != nil {
		return 0, err
	}
	if err := w.flush(); err != nil {
		return 0, err
	}
	if err := t.patchLinks(); err != nil {
		return 0, err
	}
	if err := w.writeSuper(root, t.inodes); err != nil {
		return 0, err
	}
	return w.off, w.f.Truncate(w.off)
}

// writeSuper writes block 0.
func (w *Writer) writeSuper(root *Node, inodes uint64) error {
	le := binary.LittleEndian
	b := make([]byte, BlockSize)
	x, err := xattrSize(root.Attr.Xattrs)
	if err != nil {
		return err
	}
	if rootOffset+inodeSize+x > BlockSize {
		return fmt.Errorf("the root directory has extended attributes of %d bytes, more than %d", x, BlockSize-rootOffset-inodeSize)
	}
	s := b[superOffset:]
	le.PutUint32(s[0:], superMagic)
	le.PutUint32(s[8:], featureChecksum|featureMtime)
	s[12] = 12 // log2 of the block size
	le.PutUint16(s[14:], rootOffset/slotSize)
	le.PutUint64(s[16:], inodes)
	le.PutUint32(s[36:], uint32(w.off/BlockSize))
	appendInode(b[rootOffset:rootOffset], root.Attr, layoutPlain, uint64(root.entries), root.block, root.links, x)
	// crc32c from the superblock to the end of its block, without the final
	// inversion: erofs_superblock_csum_verify in fs/erofs/super.c.
	le.PutUint32(s[4:], ^crc32.Checksum(s, crc32.MakeTable(crc32.Castagnoli)))
	_, err = w.f.WriteAt(b, 0)
	return err
}

// names returns the names in a directory as EROFS sorts them.
func (n *Node) names() []string {
	names := make([]string, 0, len(n.Children)+2)
	names = append(names, ".", "..")
	for name := range n.Children {
		names = append(names, name)
	}
	slices.SortFunc(names, cmp.Compare[string])
	return names
}

func allZero(b []byte) bool {
	return len(b) > 0 && b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
