package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/api"
)

// CheckOptions say how to check the store.
type CheckOptions struct {
	// Repair fetches what is broken from the registry it came from, makes EROFS images
	// and disks anew from their layers and chunks, and removes what is broken and no image's.
	Repair bool
	Access
	Progress Progress // of all, and each fault as a part with a text
}

// Checked is what a check has found.
type Checked struct {
	Blobs    int
	Bytes    int64
	Broken   int // blobs, of which
	Repaired int // so many are whole again
}

// The stages of a check's Progress.
const (
	StageChecking = "checking"
	StageBroken   = "broken"
	StageRepaired = "repaired"
)

// Check reads the whole store: every blob must have its digest, and all that an image
// refers to must be there, with an EROFS image that is its layer's. Images can be used
// meanwhile; an instance that runs reads what it has begun with until its next start.
func (s *Store) Check(ctx context.Context, opt CheckOptions) (Checked, error) {
	const op = "check the image store"
	ctx, done, err := s.work(ctx)
	if err != nil {
		return Checked{}, api.E(op, "", "", err)
	}
	defer done()
	c := &checker{s: s, opt: opt, sound: map[digest.Digest]bool{}, guard: newGuard(s.opt.Stall)}
	defer c.guard.close()
	err = c.all(ctx)
	if c.Repaired > 0 {
		s.forgetResolved()
	}
	return c.Checked, api.E(op, "", "", diskFull(err))
}

// checker is one check.
type checker struct {
	Checked
	s     *Store
	opt   CheckOptions
	guard *guard
	total int64                  // bytes to read
	sound map[digest.Digest]bool // of each blob that was read
	blind bool                   // a manifest is broken: whose a blob is cannot be told
}

func (c *checker) all(ctx context.Context) error {
	known := []content.Info{}
	err := c.s.content.Walk(ctx, func(info content.Info) error {
		known = append(known, info)
		c.total += info.Size
		return nil
	})
	if err != nil {
		return err
	}
	names, err := c.s.images.List(ctx)
	if err != nil {
		return err
	}
	for _, rec := range names {
		if err := c.tree(ctx, rec.Name, rec.Target, rec.Target.Digest); err != nil {
			return err
		}
	}
	for _, info := range known {
		if _, read := c.sound[info.Digest]; read {
			continue
		}
		if err := c.orphan(ctx, info); err != nil {
			return err
		}
	}
	return nil
}

// tree checks what a manifest or an index leads to. Root is what the image's name, a full
// one, means.
func (c *checker) tree(ctx context.Context, name string, desc ocispec.Descriptor, root digest.Digest) error {
	_, read := c.sound[desc.Digest]
	before := c.Repaired
	ok, err := c.blob(ctx, name, desc, root)
	c.blind = c.blind || !ok
	if err != nil || !ok || read {
		return err
	}
	b, err := c.s.readBlob(ctx, desc, maxManifest)
	if err != nil {
		return err
	}
	m, err := parseAny(b, desc.MediaType)
	if err != nil {
		return c.fault(desc.Digest, name, err, nil)
	}
	if c.Repaired > before { // the books may not have had it
		if err := c.s.setLabels(ctx, desc.Digest, gcLabels(m)); err != nil {
			return err
		}
	}
	if len(m.manifests) > 0 {
		return c.index(ctx, name, m, root)
	}
	for _, d := range m.blobs {
		if images.IsNonDistributable(d.MediaType) || c.arriving(ctx, d) {
			continue
		}
		if _, err := c.blob(ctx, name, d, root); err != nil {
			return err
		}
	}
	return c.layers(ctx, name, desc)
}

// arriving reports whether a layer is used before it has arrived: it is read when it has.
func (c *checker) arriving(ctx context.Context, d ocispec.Descriptor) bool {
	_, err := c.s.content.Info(ctx, d.Digest)
	return notFound(err) && c.s.arriving(d.Digest) != nil
}

// index checks those of an index's manifests that are here, or are for this host.
func (c *checker) index(ctx context.Context, name string, m *parsed, root digest.Digest) error {
	chosen, _ := choose(&ocispec.Index{Manifests: m.manifests}, platforms.Default(), platforms.DefaultString())
	for _, d := range m.manifests {
		_, err := c.s.content.Info(ctx, d.Digest)
		here := err == nil
		// A store that serves others may have none for this host.
		if !here && (d.Digest != chosen.Digest || c.anyOf(ctx, m)) {
			continue
		}
		if err := c.tree(ctx, name, d, root); err != nil {
			return err
		}
	}
	return nil
}

// anyOf reports whether one of an index's manifests is here.
func (c *checker) anyOf(ctx context.Context, m *parsed) bool {
	return slices.ContainsFunc(m.manifests, func(d ocispec.Descriptor) bool {
		_, err := c.s.content.Info(ctx, d.Digest)
		return err == nil
	})
}

// layers checks the EROFS images of an image's layers, those that have been made.
func (c *checker) layers(ctx context.Context, name string, desc ocispec.Descriptor) error {
	_, m, err := c.s.manifest(ctx, desc)
	if err == nil && m.ArtifactType == diskArtifact && inChunks(m) {
		return c.disk(ctx, name, m)
	}
	if err != nil || m.ArtifactType != "" {
		return nil //nolint:nilerror // no image of layers: its blobs are all there is
	}
	doc, err := c.s.config(ctx, m)
	if err != nil {
		return nil //nolint:nilerror // broken, which was said, or of another kind
	}
	for i, l := range m.Layers {
		info, err := c.s.content.Info(ctx, l.Digest)
		if err != nil || info.Labels[erofsRefLabel] == "" || !c.sound[l.Digest] {
			continue
		}
		d := digest.Digest(info.Labels[erofsRefLabel])
		if _, read := c.sound[d]; read {
			continue
		}
		problem := c.verify(ctx, d, 0)
		if made, err := c.s.content.Info(ctx, d); problem == nil && (err != nil || made.Labels[diffIDLabel] != doc.RootFS.DiffIDs[i].String()) {
			problem = errors.New("it is not the layer's that refers to it")
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if c.sound[d] = problem == nil; problem == nil {
			continue
		}
		err = c.fault(d, name, fmt.Errorf("the EROFS image of layer %s: %w", short(l.Digest), problem), func() error {
			if err := c.forget(ctx, d); err != nil {
				return err
			}
			return c.s.convert(ctx, l, doc.RootFS.DiffIDs[i], nil)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// disk checks what was made of a disk image's chunks.
func (c *checker) disk(ctx context.Context, name string, m *ocispec.Manifest) error {
	index, err := c.s.content.Info(ctx, m.Layers[0].Digest)
	d := digest.Digest(index.Labels[diskRefLabel])
	if _, read := c.sound[d]; err != nil || d == "" || read {
		return nil //nolint:nilerror // broken, which was said, or nothing was made
	}
	problem := c.verify(ctx, d, 0)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if c.sound[d] = problem == nil; problem == nil {
		return nil
	}
	return c.fault(d, name, fmt.Errorf("the disk of its chunks: %w", problem), func() error {
		if err := c.forget(ctx, d); err != nil {
			return err
		}
		_, err := c.s.wholeDisk(ctx, m, nil)
		return err
	})
}

// orphan checks a blob that no image refers to: it waits for a manifest, or for the
// collector.
func (c *checker) orphan(ctx context.Context, info content.Info) error {
	problem := c.verify(ctx, info.Digest, info.Size)
	if problem == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	if _, err := c.s.content.Info(ctx, info.Digest); err != nil {
		return nil //nolint:nilerror // collected meanwhile
	}
	if c.blind {
		return c.fault(info.Digest, "an unknown image", problem, nil)
	}
	return c.fault(info.Digest, "no image", problem, func() error { return c.forget(ctx, info.Digest) })
}

// forget removes a broken blob that can be made again, or is nobody's.
func (c *checker) forget(ctx context.Context, d digest.Digest) error {
	if err := c.s.content.Delete(ctx, d); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	err := os.Remove(c.s.blobPath(d.String()))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// blob checks one blob, and reports whether it is whole, now or again.
func (c *checker) blob(ctx context.Context, name string, desc ocispec.Descriptor, root digest.Digest) (bool, error) {
	if sound, read := c.sound[desc.Digest]; read {
		return sound, nil
	}
	problem := c.verify(ctx, desc.Digest, desc.Size)
	if _, err := c.s.content.Info(ctx, desc.Digest); err != nil && problem == nil {
		problem = errors.New("the store's books do not have it")
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if c.sound[desc.Digest] = problem == nil; problem == nil {
		return true, nil
	}
	err := c.fault(desc.Digest, name, problem, func() error { return c.refetch(ctx, name, desc, root) })
	return c.sound[desc.Digest], err
}

// verify reads a blob's file. A size of 0 is not known.
func (c *checker) verify(ctx context.Context, d digest.Digest, size int64) error {
	c.Blobs++
	f, err := os.Open(c.s.blobPath(d.String()))
	if errors.Is(err, os.ErrNotExist) {
		return errors.New("its file is missing")
	} else if err != nil {
		return err
	}
	defer f.Close()
	hash := d.Algorithm().Digester()
	in := &layerReader{in: contextReader{ctx, f}, progress: func(n int64) { c.opt.Progress.report("", StageChecking, c.Bytes+n, c.total) }}
	n, err := io.CopyBuffer(onlyWriter{hash.Hash()}, in, make([]byte, 1<<20))
	c.Bytes += n
	switch {
	case err != nil:
		return err
	case size > 0 && n != size:
		return fmt.Errorf("its file has %d bytes and should have %d", n, size)
	case hash.Digest() != d:
		return errors.New("its file has another content")
	}
	return nil
}

// fault tells of a broken blob, and repairs it if that is wanted. The error is one that
// ends the check.
func (c *checker) fault(d digest.Digest, name string, problem error, repair func() error) error {
	c.Broken++
	stage, text := StageBroken, fmt.Sprintf("of %s: %v", Familiar(name), problem)
	if c.opt.Repair && repair != nil {
		err := repair()
		if api.IsKind(err, api.Canceled) || errors.Is(err, context.Canceled) {
			return err
		}
		if err == nil {
			c.Repaired++
			c.sound[d] = true
			stage = StageRepaired
		} else {
			text += fmt.Sprintf("; not repaired: %v", err)
		}
	}
	if c.opt.Progress != nil {
		c.opt.Progress(api.Progress{Part: short(d), Stage: stage, Text: text})
	}
	return nil
}

// refetch gets a blob from a registry that had it, and puts it into the place of the
// broken one: its labels, and whatever follows from them, stay.
func (c *checker) refetch(ctx context.Context, name string, desc ocispec.Descriptor, root digest.Digest) error {
	repos := c.origins(ctx, name, desc.Digest, root)
	if len(repos) == 0 {
		return api.E("", api.NotFound, "", errors.New("it came from no registry; pull, import or build the image again"))
	}
	var err error
	resolver := c.s.resolver(ctx, c.opt.Access, c.guard)
	for _, repo := range repos {
		fetcher, e := resolver.Fetcher(ctx, repo+"@"+desc.Digest.String())
		if e == nil {
			e = c.replace(ctx, fetcher, desc, sourceLabels(repo))
		}
		if e == nil {
			return nil
		}
		err = errors.Join(err, api.E("", "", repo, remoteError(ctx, e)))
	}
	return err
}

// origins returns the repositories that a blob, or the image it is of, came from. The
// labels that tell them leave out the port, which the image's name may have.
func (c *checker) origins(ctx context.Context, name string, digests ...digest.Digest) (repos []string) {
	domain := ""
	if named, err := reference.ParseNormalizedNamed(name); err == nil {
		domain = reference.Domain(named)
	}
	for _, d := range digests {
		info, err := c.s.content.Info(ctx, d)
		if err != nil {
			continue // not in the books
		}
		for key, paths := range sources(info.Labels) {
			host := strings.TrimPrefix(key, labels.LabelDistributionSource+".")
			if hostname(domain) == host {
				host = domain
			}
			for path := range strings.SplitSeq(paths, ",") {
				repos = append(repos, host+"/"+path)
			}
		}
	}
	slices.Sort(repos)
	return slices.Compact(repos)
}

// replace fetches a blob and renames it into its place.
func (c *checker) replace(ctx context.Context, fetcher remotes.Fetcher, desc ocispec.Descriptor, labels map[string]string) error {
	f, err := c.s.temp("fetched-*")
	if err != nil {
		return err
	}
	hash := desc.Digest.Algorithm().Digester()
	p := &puller{s: c.s, fetcher: fetcher, progress: c.opt.Progress}
	_, err = p.download(ctx, io.MultiWriter(f, hash.Hash()), desc, 0)
	if err == nil && hash.Digest() != desc.Digest {
		err = api.E("", api.Corrupt, "", errors.New("what the registry sent is something else"))
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		discard(f)
		return err
	}
	return c.s.settle(ctx, f, desc, labels)
}
