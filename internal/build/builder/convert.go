package builder

import (
	"bufio"
	"context"
	"io"
	"os"

	"github.com/berthcloud/berth/internal/build"
	"github.com/berthcloud/berth/internal/image"
)

// imageMaker makes EROFS images of layers that are not in the store yet.
type imageMaker struct {
	daemon build.Daemon
	dir    string // for files in the making, on the store's filesystem
}

// layerImage is an image in the making. The tar of its layer is written to it.
type layerImage struct {
	to   *bufio.Writer
	pipe *io.PipeWriter
	done chan error
}

// tarBuffer is how many bytes of a layer are handed over at once.
const tarBuffer = 256 << 10

// begin begins an image. It must be ended and waited for.
func (m *imageMaker) begin(ctx context.Context) (*layerImage, error) {
	f, err := os.CreateTemp(m.dir, "layer-*.erofs")
	if err != nil {
		return nil, err
	}
	from, pipe := io.Pipe()
	i := &layerImage{to: bufio.NewWriterSize(pipe, tarBuffer), pipe: pipe, done: make(chan error, 1)}
	go func() {
		err := m.make(ctx, f, from)
		from.CloseWithError(err)
		i.done <- err
	}()
	return i, nil
}

// make makes an image in f and gives it to the daemon.
func (m *imageMaker) make(ctx context.Context, f *os.File, from io.Reader) error {
	defer os.Remove(f.Name()) // unless the daemon has it
	defer f.Close()
	made, err := image.MakeLayer(ctx, f, from)
	if err != nil {
		return err
	}
	return m.daemon.Add(ctx, build.Layer{DiffID: made.DiffID, EROFS: made.EROFS, Path: made.Path, Size: made.Size})
}

// end says that the tar is whole.
func (i *layerImage) end() { i.pipe.CloseWithError(i.to.Flush()) }

// wait returns when the daemon has the image, or why it has not.
func (i *layerImage) wait() error { return <-i.done }
