package erofs

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// maxDepth bounds the nesting of directories, so that a walk's stack is small.
// Linux accepts paths of 4096 bytes, so no deeper name could be opened anyway.
const maxDepth = 2048

// tree lays out and writes the directories of an image, when the places of all
// other inodes are known.
type tree struct {
	w      *Writer
	root   *Node
	dirs   []item  // in depth-first order, names sorted
	linked []*Node // with more than one name
	inodes uint64
}

type item struct{ dir, parent *Node }

// layOut finds the place of every directory and its entries.
func (t *tree) layOut() error {
	if err := t.collect(t.root, t.root, 0); err != nil {
		return err
	}
	block, err := t.w.position()
	if err != nil {
		return err
	}
	// Large directories and the root first: their entries have whole blocks.
	records := make([]int, len(t.dirs))
	for i, it := range t.dirs {
		x, err := xattrSize(it.dir.Attr.Xattrs)
		if err != nil {
			return err
		}
		records[i] = inodeSize + x
		it.dir.inline = it.dir != t.root && int64(records[i])+it.dir.entries <= BlockSize
		if it.dir.inline {
			records[i] += int(it.dir.entries)
			continue
		}
		it.dir.block = block
		block += uint32((it.dir.entries + BlockSize - 1) / BlockSize)
	}
	t.root.nid = rootOffset / slotSize
	pos := uint64(block) * BlockSize
	for i, it := range t.dirs {
		if it.dir == t.root {
			continue
		}
		pos = place(pos, records[i])
		it.dir.nid = pos / slotSize
		pos += uint64(records[i]+slotSize-1) &^ (slotSize - 1)
	}
	return nil
}

// place returns where a record of n bytes may start at or after pos: it does
// not cross the end of a block unless it is larger than one.
func place(pos uint64, n int) uint64 {
	if in := pos % BlockSize; in != 0 && in+uint64(n) > BlockSize {
		return pos + BlockSize - in
	}
	return pos
}

// collect walks the directories and counts links.
func (t *tree) collect(dir, parent *Node, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("directories nested deeper than %d", maxDepth)
	}
	t.dirs = append(t.dirs, item{dir, parent})
	t.inodes++
	dir.Attr.Mode = unix.S_IFDIR | dir.Attr.Mode&0o7777
	dir.links = 2
	names := dir.names()
	dir.entries = entriesSize(names)
	for _, name := range names {
		child := dir.Children[name]
		switch {
		case child == nil: // "." and ".."
		case child.IsDir():
			dir.links++
			if err := t.collect(child, dir, depth+1); err != nil {
				return err
			}
		default:
			switch child.links++; child.links {
			case 1:
				t.inodes++
			case 2:
				t.linked = append(t.linked, child)
			}
		}
	}
	return nil
}

// entriesSize returns how many bytes the entries take. Every block but the
// last is padded.
func entriesSize(names []string) int64 {
	full, used := int64(0), 0
	for _, name := range names {
		if used+direntSize+len(name) > BlockSize {
			full += BlockSize
			used = 0
		}
		used += direntSize + len(name)
	}
	return full + int64(used)
}

// write appends what layOut has placed.
func (t *tree) write() error {
	for _, it := range t.dirs {
		if it.dir.inline {
			continue
		}
		if err := t.w.append(entries(it.dir, it.parent)); err != nil {
			return err
		}
		if err := t.w.pad(); err != nil {
			return err
		}
	}
	pos := uint64(t.w.off) + uint64(len(t.w.buf))
	for _, it := range t.dirs {
		if it.dir == t.root {
			continue // in block 0, with the superblock
		}
		b, err := dirRecord(it)
		if err != nil {
			return err
		}
		gap := it.dir.nid*slotSize - pos
		pos += gap + uint64(len(b))
		if err := t.w.append(append(make([]byte, gap), b...)); err != nil {
			return err
		}
	}
	return t.w.pad()
}

// dirRecord returns a directory's inode, attributes and inline entries.
func dirRecord(it item) ([]byte, error) {
	x, err := xattrSize(it.dir.Attr.Xattrs)
	if err != nil {
		return nil, err
	}
	layout := uint16(layoutPlain)
	if it.dir.inline {
		layout = layoutInline
	}
	b := appendInode(nil, it.dir.Attr, layout, uint64(it.dir.entries), it.dir.block, it.dir.links, x)
	if it.dir.inline {
		b = append(b, entries(it.dir, it.parent)...)
	}
	return alignSlot(b), nil
}

// entries returns a directory's content: per block, first the heads of all
// entries in it, then their names.
func entries(dir, parent *Node) []byte {
	out := make([]byte, 0, dir.entries)
	names := dir.names()
	for len(names) > 0 {
		if rest := len(out) % BlockSize; rest != 0 {
			out = append(out, make([]byte, BlockSize-rest)...)
		}
		n, used := 0, 0
		for n < len(names) && used+direntSize+len(names[n]) <= BlockSize {
			used += direntSize + len(names[n])
			n++
		}
		nameOff := n * direntSize
		for _, name := range names[:n] {
			node := dir.Children[name]
			switch name {
			case ".":
				node = dir
			case "..":
				node = parent
			}
			out = binary.LittleEndian.AppendUint64(out, node.nid)
			out = binary.LittleEndian.AppendUint16(out, uint16(nameOff))
			out = append(out, fileType(node.kind), 0)
			nameOff += len(name)
		}
		for _, name := range names[:n] {
			out = append(out, name...)
		}
		names = names[n:]
	}
	return out
}

// fileType returns the type of a directory entry: EROFS uses those of ext4.
func fileType(kind uint32) byte {
	switch kind {
	case unix.S_IFREG:
		return 1
	case unix.S_IFDIR:
		return 2
	case unix.S_IFCHR:
		return 3
	case unix.S_IFBLK:
		return 4
	case unix.S_IFIFO:
		return 5
	case unix.S_IFSOCK:
		return 6
	case unix.S_IFLNK:
		return 7
	}
	return 0
}

// patchLinks corrects the link count of every inode with more than one name:
// they were written with a count of one, before their other names were known.
func (t *tree) patchLinks() error {
	for _, node := range t.linked {
		b := binary.LittleEndian.AppendUint32(nil, node.links)
		if _, err := t.w.f.WriteAt(b, int64(node.nid)*slotSize+linksOffset); err != nil {
			return err
		}
	}
	return nil
}
