package layer

import (
	"archive/tar"
	"context"
	"iter"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image/erofs"
)

// Outline writes the EROFS image of an eStargz layer of which only the table of contents
// is there yet: headers are its entries, in the order of the archive. What files hold are
// holes of the image; place is told where in it the content of a file belongs, in order,
// unless that is empty.
//
// Convert with Options.Stargz makes the same image of the layer itself, content and all:
// a guest that has mounted one goes on with the other, when it was suspended meanwhile.
// So both know times to the second, as the table has them, keep all content apart, and
// leave out the files that are of the format and not of the root filesystem.
//
// Errors are those of Convert.
func Outline(ctx context.Context, out erofs.File, headers iter.Seq[*tar.Header], opt Options, place func(h *tar.Header, at int64)) (Stats, error) {
	opt.Limits, opt.Stargz = opt.Limits.withDefaults(), true
	c := &converter{opt: opt, w: erofs.NewWriter(out), root: erofs.NewDir(erofs.Attr{Mode: 0o755}), place: place}
	c.w.KeepApart()
	for h := range headers {
		if err := ctx.Err(); err != nil {
			return c.stats, api.E("", api.Canceled, "", err)
		}
		if err := c.entry(h); err != nil {
			return c.stats, named(h.Name, err)
		}
	}
	var err error
	c.stats.Image, err = c.w.Close(c.root)
	return c.stats, err
}

// reserve is node for a file whose content comes later.
func (c *converter) reserve(a erofs.Attr, h *tar.Header) (*erofs.Node, error) {
	c.spent += h.Size
	n, at, err := c.w.Reserve(a, h.Size)
	if err == nil && h.Size > 0 {
		c.place(h, at)
	}
	return n, err
}

// ofStargz reports whether a file is of the eStargz format: its table of contents, or a
// mark of how much is to be fetched ahead (stargz-snapshotter, docs/estargz.md).
func ofStargz(parts []string) bool {
	if len(parts) != 1 {
		return false
	}
	switch parts[0] {
	case "stargz.index.json", ".prefetch.landmark", ".no.prefetch.landmark":
		return true
	}
	return false
}
