package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image/layer"
)

// CommitOptions say what an image of an instance is.
type CommitOptions struct {
	Base    string // digest of the manifest that the layer lies on
	Name    string
	By      string // what made it, for the history
	Author  string
	Message string
	// Config is how an instance of the image runs. What else the base's config says
	// stays as it is.
	Config   api.ImageConfig
	Progress Progress
}

// Commit makes an image of another and one layer more, which is read from r as a tar
// archive, and returns its name.
func (s *Store) Commit(ctx context.Context, r io.Reader, opt CommitOptions) (string, error) {
	name, err := s.commit(ctx, r, opt)
	return name, api.E("commit", "", opt.Name, err)
}

func (s *Store) commit(ctx context.Context, r io.Reader, opt CommitOptions) (string, error) {
	name, err := tagName(opt.Name)
	if err != nil {
		return "", err
	}
	ctx, done, err := s.work(ctx)
	if err != nil {
		return "", err
	}
	defer s.finish(ctx, done)
	_, base, err := s.manifest(ctx, ocispec.Descriptor{Digest: digest.Digest(opt.Base), MediaType: ocispec.MediaTypeImageManifest})
	if err != nil {
		return "", err
	}
	config, err := s.readBlob(ctx, base.Config, maxConfig)
	if err != nil {
		return "", err
	}
	if len(base.Layers) >= maxLayers {
		return "", api.E("", api.Exhausted, "", fmt.Errorf("the image has %d layers already, and none can have more; export the instance's files and import them as a new image", len(base.Layers)))
	}
	packed, diffID, err := s.storeLayer(ctx, r, "layer", layer.Options{}, opt.Progress)
	if err != nil {
		return "", err
	}
	next, err := grow(config, diffID, opt, time.Now().UTC())
	if err != nil {
		return "", err
	}
	layers := slices.Clone(base.Layers)
	for i, l := range layers {
		layers[i].MediaType = ociLayerType(l.MediaType)
	}
	return Familiar(name), s.writeImage(ctx, name, next, append(layers, packed), base.Annotations)
}

// ociLayerType is the OCI's name for a type of layers that docker has another for: the
// manifests written here are the OCI's.
func ociLayerType(mediaType string) string {
	switch mediaType {
	case images.MediaTypeDockerSchema2Layer:
		return ocispec.MediaTypeImageLayer
	case images.MediaTypeDockerSchema2LayerGzip:
		return ocispec.MediaTypeImageLayerGzip
	case images.MediaTypeDockerSchema2LayerZstd:
		return ocispec.MediaTypeImageLayerZstd
	}
	return mediaType
}

// object is a JSON object of which only some members are known here.
type object map[string]json.RawMessage

// put sets a member. What is written here can be encoded.
func (o object) put(name string, value any) error {
	text, err := json.Marshal(value)
	o[name] = text
	return err
}

// take reads a member into v, which stays as it is where there is none.
func (o object) take(name string, v any) error {
	text, ok := o[name]
	if !ok {
		return nil
	}
	return json.Unmarshal(text, v)
}

// grow makes of an image's config that of the image with one layer more. Members that
// Berth knows nothing of are kept.
func grow(config []byte, diffID digest.Digest, opt CommitOptions, now time.Time) (object, error) {
	var doc, run, rootfs object
	var history []ocispec.History
	var diffIDs []digest.Digest
	err := json.Unmarshal(config, &doc)
	if err == nil {
		err = errors.Join(doc.take("config", &run), doc.take("rootfs", &rootfs), doc.take("history", &history), rootfs.take("diff_ids", &diffIDs))
	}
	if err != nil {
		return nil, api.E("", api.Corrupt, "", fmt.Errorf("the image's config is not valid: %w", err))
	}
	if run == nil {
		run = object{}
	}
	// A layer has an entry each, so that the new one's is its own.
	for described := filled(history); described < len(diffIDs); described++ {
		history = append(history, ocispec.History{CreatedBy: "unknown"})
	}
	history = append(history, ocispec.History{Created: &now, CreatedBy: opt.By, Author: opt.Author, Comment: opt.Message})
	c := opt.Config
	err = errors.Join(
		run.put("Env", c.Env), run.put("Entrypoint", c.Entrypoint), run.put("Cmd", c.Command),
		run.put("User", c.User), run.put("WorkingDir", c.WorkingDir), run.put("StopSignal", c.StopSignal),
		rootfs.put("diff_ids", append(diffIDs, diffID)),
		doc.put("config", run), doc.put("rootfs", rootfs), doc.put("history", history), doc.put("created", now),
	)
	if opt.Author != "" {
		err = errors.Join(err, doc.put("author", opt.Author))
	}
	return doc, err
}

// filled counts the entries of a history that have a layer.
func filled(history []ocispec.History) (n int) {
	for _, h := range history {
		if !h.EmptyLayer {
			n++
		}
	}
	return n
}
