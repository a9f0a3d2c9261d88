package server

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image/erofs"
	"github.com/berthcloud/berth/internal/image/layer"
)

// Bounds of what a table of contents may be, in bytes: half a million files have some 30
// MiB of it, which expand to 200.
const (
	maxTOC   = 64 << 20
	maxPlain = 256 << 20
	// maxChunk bounds what is expanded at a time. Builders make chunks of 4 MiB.
	maxChunk = 64 << 20
)

// chunk is a piece of a file's content: it stands at the offset at of the EROFS image, and
// in the layer within a gzip stream.
type chunk struct {
	at, size     int64
	offset, next int64 // of the layer, where the stream begins and ends
	inner        int64 // of the stream expanded, where the chunk begins
	digest       digest.Digest
}

// contents is what a table of contents says of a layer.
type contents struct {
	image  int64   // bytes of the EROFS image
	chunks []chunk // in the order of at
	first  int64   // so many bytes of the layer are fetched before the rest
}

// corrupt is the error of a layer that is not what it should be.
func corrupt(format string, args ...any) error {
	return api.E("", api.Corrupt, "", fmt.Errorf(format, args...))
}

// noStargz is the error of a layer that is whole but cannot be read in parts.
func noStargz(format string, args ...any) error {
	return api.E("", api.Unsupported, "", fmt.Errorf("it is no eStargz layer: "+format, args...))
}

// readTOC reads the table of contents of a layer of size bytes, which must have a digest.
// It fetches what it needs of the layer, and nothing else.
func readTOC(ctx context.Context, b *blob, want digest.Digest) (*estargz.JTOC, int64, error) {
	offset, err := readFooter(ctx, b)
	if err != nil {
		return nil, 0, err
	}
	if err := b.fetch(ctx, offset, b.size); err != nil {
		return nil, 0, err
	}
	packed := func() io.Reader { return io.NewSectionReader(b.file, offset, b.size-estargz.FooterSize-offset) }
	// The library takes all that there is.
	zr, err := gzip.NewReader(packed())
	if err != nil {
		return nil, 0, noStargz("its table of contents: %w", err)
	}
	n, err := io.Copy(io.Discard, io.LimitReader(zr, maxPlain))
	if err != nil {
		return nil, 0, corrupt("its table of contents is damaged: %w", err)
	}
	if n == maxPlain {
		return nil, 0, noStargz("its table of contents has more than %d bytes", maxPlain)
	}
	toc, got, err := new(estargz.GzipDecompressor).ParseTOC(packed())
	if err != nil {
		return nil, 0, corrupt("its table of contents cannot be read: %w", err)
	}
	if got != want {
		return nil, 0, corrupt("its table of contents is %s, but the image's manifest says %s", got, want)
	}
	return toc, offset, nil
}

// readFooter returns where the table of contents begins, which the last bytes of a layer
// tell: an empty gzip stream whose header has the field SG with the offset in sixteen
// hexadecimal digits and STARGZ (stargz-snapshotter, docs/estargz.md).
func readFooter(ctx context.Context, b *blob) (int64, error) {
	if b.size < estargz.FooterSize {
		return 0, noStargz("it has %d bytes", b.size)
	}
	if err := b.fetch(ctx, b.size-estargz.FooterSize, b.size); err != nil {
		return 0, err
	}
	var foot [estargz.FooterSize]byte
	if _, err := b.file.ReadAt(foot[:], b.size-estargz.FooterSize); err != nil {
		return 0, err
	}
	return parseFooter(foot[:], b.size)
}

func parseFooter(foot []byte, size int64) (int64, error) {
	field := foot[12:] // after the header and the length of its extra field
	if !bytes.HasPrefix(foot, []byte{0x1f, 0x8b}) || string(field[:2]) != "SG" || string(field[20:26]) != "STARGZ" {
		return 0, noStargz("its end is none")
	}
	offset, err := strconv.ParseInt(string(field[4:20]), 16, 64)
	if err != nil || offset <= 0 || offset >= size-estargz.FooterSize {
		return 0, noStargz("it says that its table of contents begins at %.20q", field[4:20])
	}
	if size-offset > maxTOC {
		return 0, noStargz("its table of contents has %d bytes", size-offset)
	}
	return offset, nil
}

// outline writes the EROFS image of a table of contents, without what files hold, and
// returns where that is in the layer, whose table begins at the offset end.
func outline(ctx context.Context, out erofs.File, toc *estargz.JTOC, end int64, limits layer.Limits) (*contents, error) {
	c := &contents{}
	o := outliner{contents: c, toc: toc, end: end}
	stats, err := layer.Outline(ctx, out, o.headers(), layer.Options{Limits: limits, Absolute: true}, o.place)
	if err := errors.Join(o.err, err); err != nil {
		return nil, err
	}
	c.image = stats.Image
	return c, o.lay()
}

// outliner reads the entries of a table of contents.
type outliner struct {
	*contents
	toc *estargz.JTOC
	end int64 // offset of the table in the layer
	at  int   // the entry that is being read
	err error
}

// headers returns what a tar archive would say of the entries.
func (o *outliner) headers() iter.Seq[*tar.Header] {
	return func(yield func(*tar.Header) bool) {
		for i, e := range o.toc.Entries {
			if e == nil {
				o.err = corrupt("entry %d of its table of contents is empty", i)
				return
			}
			if e.Type == "chunk" {
				continue
			}
			if e.Name == estargz.PrefetchLandmark {
				o.first = min(max(e.Offset, 0), o.end)
			}
			h, err := header(e)
			if o.at = i; err != nil {
				o.err = err
				return
			}
			if !yield(h) {
				return
			}
		}
	}
}

// types are those of a tar archive's entries.
func typeOf(e *estargz.TOCEntry) (byte, bool) {
	switch e.Type {
	case "reg":
		return tar.TypeReg, true
	case "dir":
		return tar.TypeDir, true
	case "symlink":
		return tar.TypeSymlink, true
	case "hardlink":
		return tar.TypeLink, true
	case "char":
		return tar.TypeChar, true
	case "block":
		return tar.TypeBlock, true
	case "fifo":
		return tar.TypeFifo, true
	}
	return 0, false
}

// header says what the archive's header said, as far as the table has it.
func header(e *estargz.TOCEntry) (*tar.Header, error) {
	kind, ok := typeOf(e)
	if !ok {
		return nil, corrupt("entry %.300q of its table of contents is of an unknown type %.20q", e.Name, e.Type)
	}
	h := &tar.Header{
		Typeflag: kind, Name: e.Name, Linkname: e.LinkName, Mode: e.Mode, Uid: e.UID, Gid: e.GID,
		Devmajor: int64(e.DevMajor), Devminor: int64(e.DevMinor),
	}
	if kind == tar.TypeReg {
		h.Size = e.Size
	}
	if e.ModTime3339 != "" {
		at, err := time.Parse(time.RFC3339, e.ModTime3339)
		if err != nil {
			return nil, corrupt("entry %.300q of its table of contents was changed at %.40q, which is no time", e.Name, e.ModTime3339)
		}
		h.ModTime = at
	}
	for name, value := range e.Xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = make(map[string]string)
		}
		h.PAXRecords["SCHILY.xattr."+name] = string(value)
	}
	return h, nil
}

// place takes the chunks of the file that is being read, whose content belongs at an
// offset of the image.
func (o *outliner) place(h *tar.Header, at int64) {
	all := o.toc.Entries[o.at:]
	done := int64(0)
	for i, e := range all {
		if i > 0 && (e == nil || e.Type != "chunk") {
			break
		}
		size := e.ChunkSize
		if size == 0 {
			size = h.Size - e.ChunkOffset
		}
		sum := digest.Digest(e.ChunkDigest)
		if sum == "" && size == h.Size {
			sum = digest.Digest(e.Digest)
		}
		if e.ChunkOffset != done || size <= 0 || size > h.Size-done || size > maxChunk ||
			e.Offset < 0 || e.Offset >= o.end || e.InnerOffset < 0 || e.InnerOffset > maxChunk || sum.Validate() != nil {
			o.fail(h, "has a chunk of %d bytes at %d that cannot be read alone", size, e.ChunkOffset)
			return
		}
		o.chunks = append(o.chunks, chunk{at: at + done, size: size, offset: e.Offset, inner: e.InnerOffset, digest: sum})
		done += size
	}
	if done != h.Size {
		o.fail(h, "has %d bytes, and chunks of %d", h.Size, done)
	}
}

func (o *outliner) fail(h *tar.Header, format string, args ...any) {
	if o.err == nil {
		o.err = noStargz("%.300q in its table of contents "+format, append([]any{h.Name}, args...)...)
	}
}

// lay finds out where the streams end: where the next one begins.
func (o *outliner) lay() error {
	next := o.end
	for i := len(o.chunks) - 1; i >= 0; i-- {
		c := &o.chunks[i]
		if i+1 < len(o.chunks) && o.chunks[i+1].offset != c.offset {
			next = o.chunks[i+1].offset
		}
		if c.next = next; c.next <= c.offset {
			return noStargz("the chunks in its table of contents are not in order")
		}
	}
	return nil
}
