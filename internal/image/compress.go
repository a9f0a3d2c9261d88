package image

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/berthcloud/berth/api"
)

type compression string

const (
	none       compression = ""
	gzipped    compression = "gzip"
	zstandard  compression = "zstd"
	xzipped    compression = "xz"
	bzip2ed    compression = "bzip2"
	peekLength             = 6
)

// detect tells the compression of a stream from its first bytes.
func detect(head []byte) compression {
	for _, m := range [...]struct {
		c     compression
		magic string
	}{{gzipped, "\x1f\x8b\x08"}, {zstandard, "\x28\xb5\x2f\xfd"}, {xzipped, "\xfd7zXZ\x00"}, {bzip2ed, "BZh"}} {
		if bytes.HasPrefix(head, []byte(m.magic)) {
			return m.c
		}
	}
	return none
}

// layerReader counts what is read of a layer as it came.
type layerReader struct {
	in       io.Reader
	n        atomic.Int64
	progress func(int64) // may be nil
	told     int64
}

// progressStep is how many bytes pass between two reports.
const progressStep = 1 << 20

func (r *layerReader) Read(p []byte) (int, error) {
	n, err := r.in.Read(p)
	now := r.n.Add(int64(n))
	if r.progress != nil && now-r.told >= progressStep {
		r.told = now
		r.progress(now)
	}
	return n, err
}

func (r *layerReader) count() int64 { return r.n.Load() }

// plainReader is a stream with its compression taken off. Errors of the
// compression are Corrupt.
type plainReader struct {
	io.Reader
	compression compression
	close       func()
}

func (r *plainReader) Close() { r.close() }

// zstdWindow bounds the memory that a frame may ask a decoder for, in bytes:
// what zstd itself accepts by default (8 MiB) and long mode's 128 MiB.
const zstdWindow = 128 << 20

// decompress takes the compression off r, whichever it is.
func decompress(r io.Reader) (*plainReader, error) {
	in := bufio.NewReaderSize(r, 256<<10)
	head, err := in.Peek(peekLength)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	p := &plainReader{compression: detect(head), close: func() {}}
	switch p.compression {
	case gzipped:
		p.Reader, err = gzip.NewReader(in)
	case zstandard:
		var d *zstd.Decoder
		d, err = zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(zstdWindow), zstd.WithDecoderLowmem(true))
		if err == nil {
			p.Reader, p.close = d, d.Close
		}
	case xzipped:
		var d *xz.Reader
		d, err = xz.ReaderConfig{DictCap: 64 << 20}.NewReader(in)
		p.Reader = d
	case bzip2ed:
		p.Reader = bzip2.NewReader(in)
	default:
		p.Reader = in
		return p, nil
	}
	if err != nil {
		return nil, damaged(p.compression, err)
	}
	p.Reader = &corruptReader{in: p.Reader, compression: p.compression}
	return p, nil
}

// corruptReader gives decompression errors their kind.
type corruptReader struct {
	in          io.Reader
	compression compression
}

func (r *corruptReader) Read(p []byte) (int, error) {
	n, err := r.in.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = damaged(r.compression, err)
	}
	return n, err
}

func damaged(c compression, err error) error {
	var known *api.Error
	switch {
	case errors.As(err, &known):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return api.E("", api.Corrupt, "", errors.New("the archive is truncated; fetch or make it again"))
	}
	return api.E("", api.Corrupt, "", fmt.Errorf("the %s stream is damaged: %w", c, err))
}
