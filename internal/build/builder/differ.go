package builder

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/pack"
)

// ownDiffs is the variable of its environment by which BuildKit leaves layers to the
// differ that it is given. Its own writes no extended attribute but file capabilities, so
// that what a step says by setfattr would not be in the image.
const ownDiffs = "BUILDKIT_DEBUG_FORCE_OVERLAY_DIFF"

// differ writes what a step has changed as a layer: the upper directory of its overlay,
// as a commit writes that of a container. It implements diff.Comparer.
type differ struct {
	content content.Store
	other   diff.Comparer // for what is not one directory upon others
}

// Compare implements diff.Comparer.
func (d *differ) Compare(ctx context.Context, lower, upper []mount.Mount, opts ...diff.Opt) (none ocispec.Descriptor, err error) {
	var config diff.Config
	for _, opt := range opts {
		if err := opt(&config); err != nil {
			return none, err
		}
	}
	dir, ok := topOf(lower, upper)
	if !ok || config.Compressor == nil {
		return d.other.Compare(ctx, lower, upper, opts...)
	}
	w, err := content.OpenWriter(ctx, d.content, content.WithRef(config.Reference), content.WithDescriptor(ocispec.Descriptor{MediaType: config.MediaType}))
	if err != nil {
		return none, err
	}
	defer w.Close()
	if err := w.Truncate(0); err != nil {
		return none, err
	}
	diffID, err := writeLayer(ctx, w, dir, config)
	if err != nil {
		return none, err
	}
	sum := w.Digest()
	label := map[string]string{labels.LabelUncompressed: diffID.String()}
	if err := w.Commit(ctx, 0, sum, content.WithLabels(label)); err != nil && !errdefs.IsAlreadyExists(err) {
		return none, err
	}
	info, err := d.content.Info(ctx, sum)
	if err == nil && info.Labels[labels.LabelUncompressed] == "" {
		_, err = d.content.Update(ctx, content.Info{Digest: sum, Labels: label}, "labels."+labels.LabelUncompressed)
	}
	return ocispec.Descriptor{MediaType: config.MediaType, Digest: sum, Size: info.Size}, err
}

// writeLayer writes the layer that an upper directory makes, compressed, and returns the
// digest that it has uncompressed.
func writeLayer(ctx context.Context, to io.Writer, dir string, config diff.Config) (digest.Digest, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	buffer := bufio.NewWriterSize(to, 128<<10) // a message of the store's protocol
	compressed, err := config.Compressor(buffer, config.MediaType)
	if err != nil {
		return "", err
	}
	sum := digest.Canonical.Digester()
	archive := tar.NewWriter(io.MultiWriter(compressed, sum.Hash()))
	err = pack.Tree(ctx, archive, fd, "", pack.Options{Upper: true})
	if err == nil {
		err = archive.Close()
	}
	if err := errors.Join(err, compressed.Close()); err != nil {
		return "", err
	}
	return sum.Digest(), buffer.Flush()
}

// topOf returns the directory that upper has on top of what lower has.
func topOf(lower, upper []mount.Mount) (string, bool) {
	below, okBelow := directories(lower)
	all, ok := directories(upper)
	if !ok || !okBelow || len(all) == 0 || !slices.Equal(all[1:], below) || filepath.Base(all[0]) != "fs" {
		return "", false
	}
	return all[0], true
}

// directories are what a read-only mount of the snapshotter is made of, topmost first.
func directories(mounts []mount.Mount) ([]string, bool) {
	switch {
	case len(mounts) == 0:
		return nil, true
	case len(mounts) > 1:
		return nil, false
	case mounts[0].Type == "overlay":
		st := parseStack(mounts[0].Options)
		return st.lower, st.upper == ""
	}
	return []string{mounts[0].Source}, strings.HasSuffix(mounts[0].Type, "bind")
}
