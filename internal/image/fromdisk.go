package image

import (
	"bytes"
	"context"
	"encoding/json"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image/layer"
)

// DiskTree says what an image of the root filesystem on a disk is.
type DiskTree struct {
	Disk Image // that it is on
	Name string
	// Init is called when the tree was read, and returns the program that a machine
	// starts from it, "" without one.
	Init     func() string
	Progress Progress
}

// FromDisk makes an image of one layer of the root filesystem of a disk image, which is
// read from r as a tar archive, and returns its name. An instance of it runs what the
// disk was made of, or its init.
func (s *Store) FromDisk(ctx context.Context, r io.Reader, o DiskTree) (string, error) {
	name, err := tagName(o.Name)
	if err != nil {
		return "", err
	}
	ctx, done, err := s.work(ctx)
	if err != nil {
		return "", err
	}
	defer s.finish(ctx, done)
	counted := &layerReader{in: contextReader{ctx, r}, progress: func(n int64) { o.Progress.report("root", StageReading, n, 0) }}
	packed, diffID, err := s.storeLayer(ctx, counted, "root", layer.Options{Root: true}, o.Progress)
	if err != nil {
		return "", diskFull(err)
	}
	config, err := o.config(diffID)
	if err == nil {
		err = s.writeImage(ctx, name, config, []ocispec.Descriptor{packed}, nil)
	}
	return Familiar(name), diskFull(err)
}

// config makes the config of the image, whose instances run what those of the image ran
// that the disk was made of, or else its init.
func (o DiskTree) config(diffID digest.Digest) (object, error) {
	opt := ImportOptions{Arch: o.Disk.Arch, Created: o.Disk.Created}
	if init := o.Init(); init != "" {
		opt.Config.Command = []string{init}
	}
	made := imageConfig(opt, diffID)
	made.History[0].CreatedBy = "berth image convert of " + o.Disk.Name
	text, err := json.Marshal(made)
	if err != nil {
		return nil, err
	}
	var config object
	if err := json.Unmarshal(text, &config); err != nil {
		return nil, err
	}
	if run := o.Disk.Disk.Config; len(run) > 0 {
		config["config"] = run
	}
	return config, nil
}

// Scratch makes an EROFS image of an archive that no image has, and keeps it until done
// is called.
func (s *Store) Scratch(ctx context.Context, archive []byte) (_ Layer, done func(), err error) {
	ctx, end, err := s.work(ctx)
	if err != nil {
		return Layer{}, nil, err
	}
	done = func() { s.finish(ctx, end) }
	sum := func() (digest.Digest, error) { return digest.FromBytes(archive), nil }
	made, _, err := s.toEROFS(ctx, &layerReader{in: bytes.NewReader(archive)}, sum, layer.Options{Root: true})
	if err != nil {
		done()
		return Layer{}, nil, api.E("", "", "", err)
	}
	return Layer{EROFS: made.Digest.String(), Path: s.blobPath(made.Digest.String()), Size: made.Size}, done, nil
}
