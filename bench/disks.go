package main

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"

	ggcrname "github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Of the disk that is pushed.
const (
	diskMiB    = 2048 // size
	contentMiB = 600  // that are not zeros, a third of which cannot be compressed
	changedMiB = 1
)

// pushOfDisk measures what goes to a registry, and comes back, of a disk of 600 MB that was
// changed in 1 MB, and how long it takes to push all of it.
func (b *bench) pushOfDisk() measurement {
	const name = "push of a disk of 600 MB that was changed in 1 MB"
	return measurement{name, func(ctx context.Context) (rows []row, err error) {
		r, err := newRegistry(b.daemon.netns)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, r.Close()) }()
		file := filepath.Join(b.dir, "disk.raw")
		defer func() { err = errors.Join(err, os.Remove(file)) }()
		old, changed := r.name("disk:1"), r.name("disk:2")
		defer func() { err = errors.Join(err, b.daemon.command(context.WithoutCancel(ctx), "rmi", old, changed)) }()
		whole, sent := 0.0, int64(0)
		for i, name := range []string{old, changed} {
			if err := errors.Join(writeDisk(file, i == 1), b.daemon.command(ctx, "image", "import", "--format", "raw", file, name)); err != nil {
				return nil, err
			}
			before := r.sent.Load()
			ms, err := timed(func() error { return b.daemon.command(ctx, "push", "-q", name) })
			if err != nil {
				return nil, err
			}
			if sent = r.sent.Load() - before; i == 0 {
				whole = ms
			}
		}
		chunks, err := r.fresh("disk:1", "disk:2")
		if err != nil {
			return nil, err
		}
		before := r.got.Load()
		if err := errors.Join(b.daemon.command(ctx, "rmi", changed), b.daemon.command(ctx, "system", "prune", "-f"), b.daemon.command(ctx, "pull", "-q", changed)); err != nil {
			return nil, err
		}
		for _, way := range []struct {
			name, what string
			bytes      int64
		}{{name, "sent", sent}, {"… pull of it, where the other one is", "received", r.got.Load() - before}} {
			subjects := compare([]subject{summarize(way.what, []float64{float64(way.bytes) / 1000}), summarize("the changed chunks", []float64{float64(chunks) / 1000})})
			rows = append(rows, row{Name: way.name, Unit: "kB", Verdicts: judge(subjects, []target{atMostOf(1.1, "the changed chunks")}), Subjects: subjects})
		}
		return append(rows, row{Name: "… push of all of it", Unit: "ms", Verdicts: judge(nil, nil), Subjects: []subject{summarize("berth", []float64{whole})}}), nil
	}}
}

// writeDisk makes a raw disk.
func writeDisk(path string, changed bool) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(diskMiB << 20); err != nil {
		return err
	}
	noise := rand.NewChaCha8([32]byte{})
	text := make([]byte, 1<<20)
	for i := range contentMiB {
		if _, err := io.ReadFull(noise, text); err != nil {
			return err
		}
		if i%3 != 0 {
			for j := range text { // four bits in each byte
				text[j] = 'a' + text[j]&15
			}
		}
		if _, err := f.WriteAt(text, int64(i)<<21); err != nil {
			return err
		}
	}
	if !changed {
		return nil
	}
	if _, err := io.ReadFull(noise, text); err != nil {
		return err
	}
	_, err = f.WriteAt(text[:changedMiB<<20], 100<<20+12345)
	return err
}

// fresh returns the bytes of the layers of an image of the registry that another one has
// not.
func (r *registryServer) fresh(old, changed string) (size int64, err error) {
	had := map[v1.Hash]bool{}
	for _, image := range []string{old, changed} {
		ref, err := ggcrname.ParseReference(r.name(image))
		if err != nil {
			return 0, err
		}
		got, err := remote.Get(ref, remote.WithTransport(direct{r}))
		if err != nil {
			return 0, err
		}
		img, err := got.Image()
		if err != nil {
			return 0, err
		}
		m, err := img.Manifest()
		if err != nil {
			return 0, err
		}
		for _, l := range m.Layers[1:] { // the first says where they belong
			if !had[l.Digest] && image == changed {
				size += l.Size
			}
			had[l.Digest] = true
		}
	}
	return size, nil
}
