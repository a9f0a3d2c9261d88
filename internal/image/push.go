package image

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/berthcloud/berth/api"
)

// PushOptions say how to push an image.
type PushOptions struct {
	Access
	Compression Compression // of layers
	Progress    Progress
}

// Push puts an image, whatever it holds, into the registry in its name, and returns the
// name in the short form. What the registry has already is not sent again. Of an image
// for several platforms all are pushed, or where not all are here, the one that is used here.
// What is not in the form in which it is to travel takes that form here, too: afterwards the
// name means what was pushed.
func (s *Store) Push(ctx context.Context, name string, opt PushOptions) (string, error) {
	if err := opt.Compression.Check(); err != nil {
		return "", api.E("push", "", name, err)
	}
	rec, err := s.lookup(s.context(ctx), name)
	if err != nil {
		return "", api.E("push", "", "", err)
	}
	ctx, done, err := s.work(ctx)
	if err != nil {
		return "", api.E("push", "", Familiar(rec.Name), err)
	}
	defer done()
	rec, t, err := s.travel(ctx, rec, opt)
	if err != nil {
		return "", api.E("push", "", Familiar(rec.Name), diskFull(err))
	}
	g := newGuard(s.opt.Stall)
	defer g.close()
	p := &pusher{s: s, progress: opt.Progress}
	// The tag is the last manifest's; those that it speaks of go by their digests.
	p.to, err = s.resolver(ctx, opt.Access, g).Pusher(ctx, rec.Name+"@"+t.top().Digest.String())
	if err == nil {
		p.blobs, err = s.newUploader(ctx, rec.Name, opt.Access, g)
	}
	if err == nil {
		err = p.push(ctx, t)
	}
	return Familiar(rec.Name), api.E("push", "", Familiar(rec.Name), err)
}

// travel returns an image in the form in which it is pushed, and all of it.
func (s *Store) travel(ctx context.Context, rec images.Image, opt PushOptions) (images.Image, tree, error) {
	rec, err := s.chunked(ctx, rec, opt.Progress)
	if err != nil {
		return rec, tree{}, err
	}
	t, err := s.tree(ctx, rec.Target)
	if err != nil {
		return rec, tree{}, err
	}
	before := rec.Target.Digest
	if rec, err = s.repacked(ctx, rec, t, opt.Compression, opt.Progress); err != nil {
		return rec, tree{}, err
	}
	if rec.Target.Digest != before {
		t, err = s.tree(ctx, rec.Target)
	}
	return rec, t, err
}

// pusher is one push.
type pusher struct {
	s        *Store
	to       remotes.Pusher // of manifests
	blobs    *uploader
	progress Progress
}

// push sends a tree: first what a manifest speaks of, then the manifest, so that the
// registry never has one that is not whole.
func (p *pusher) push(ctx context.Context, t tree) error {
	for _, desc := range t.manifests {
		if !p.s.keep(ctx, desc.Digest) {
			return api.E("", api.NotFound, "", errors.New("its content is not in the store any more"))
		}
	}
	if len(t.blobs) > 1 && t.blobs[1].MediaType == diskIndexType {
		p.progress = p.progress.together("disk", t.blobs)
	}
	for _, blob := range t.blobs {
		p.progress.report(short(blob.Digest), StageWaiting, 0, blob.Size)
	}
	g, within := errgroup.WithContext(ctx)
	g.SetLimit(pullStreams)
	for _, blob := range t.blobs {
		g.Go(func() error { return p.blob(within, blob) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, desc := range t.manifests {
		if err := p.manifest(ctx, desc); err != nil {
			return err
		}
	}
	return nil
}

// manifest sends a manifest.
func (p *pusher) manifest(ctx context.Context, desc ocispec.Descriptor) error {
	b, err := p.s.readBlob(ctx, desc, maxManifest)
	if err != nil {
		return err
	}
	desc.Size = int64(len(b))
	w, err := p.to.Push(ctx, desc)
	if errdefs.IsAlreadyExists(err) {
		p.progress.report(short(desc.Digest), StageExists, desc.Size, desc.Size)
		return nil
	}
	if err != nil {
		return remoteError(ctx, err)
	}
	defer w.Close()
	if err := content.Copy(ctx, w, bytes.NewReader(b), desc.Size, desc.Digest); err != nil {
		return remoteError(ctx, err)
	}
	p.progress.report(short(desc.Digest), StageDone, desc.Size, desc.Size)
	return nil
}

// size returns the size of a blob that is known by its digest.
func (s *Store) size(ctx context.Context, desc ocispec.Descriptor) (int64, error) {
	info, err := s.content.Info(ctx, desc.Digest)
	return info.Size, err
}

// blob sends one blob, or has the registry take it over from another repository.
func (p *pusher) blob(ctx context.Context, desc ocispec.Descriptor) error {
	info, err := p.s.content.Info(ctx, desc.Digest)
	if err != nil {
		return err
	}
	ra, err := p.s.content.ReaderAt(ctx, desc)
	if err != nil {
		return err
	}
	defer ra.Close()
	stage := StageDone
	desc.Size = ra.Size()
	err = p.blobs.put(ctx, desc, ra, info.Labels, p.progress)
	if errors.Is(err, errExists) {
		stage, err = StageExists, nil
	}
	if err != nil {
		return err
	}
	p.progress.report(short(desc.Digest), stage, desc.Size, desc.Size)
	return nil
}

// sourceLabels are the labels that say of a blob in which repository it was found: a
// registry that has both repositories need not be sent it (distribution-spec, "Mounting
// a blob from another repository").
func sourceLabels(full string) map[string]string {
	named, err := reference.ParseNormalizedNamed(full)
	if err != nil {
		return nil
	}
	key := labels.LabelDistributionSource + "." + hostname(reference.Domain(named))
	if err := labels.Validate(key, reference.Path(named)); err != nil {
		return nil
	}
	return map[string]string{key: reference.Path(named)}
}

// sources returns those of the labels.
func sources(all map[string]string) map[string]string {
	found := maps.Clone(all)
	maps.DeleteFunc(found, func(key, _ string) bool { return !strings.HasPrefix(key, labels.LabelDistributionSource+".") })
	return found
}
