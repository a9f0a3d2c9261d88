package image

import (
	"context"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"

	"github.com/berthcloud/berth/api"
)

// PruneOptions say what Prune removes beside garbage.
type PruneOptions struct {
	// All are images that no instance holds; kernels excepted, and what others have
	// pushed.
	All bool
	// Dangling are those of them that have no tag but a digest for a name, and are no
	// part of another: no platform of an index, no signature of an image.
	Dangling bool
	// Pushed includes in Dangling what others have pushed.
	Pushed bool
	// Match tells which of them, by creation and labels. nil matches all.
	Match func(created time.Time, labels map[string]string) bool
}

// Prune removes names of images that nobody uses, and collects garbage. It returns the
// names and the bytes freed.
func (s *Store) Prune(ctx context.Context, o PruneOptions) ([]string, int64, error) {
	ctx = s.context(ctx)
	var removed []string
	if o.All || o.Dangling {
		var err error
		if removed, err = s.removeUnused(ctx, o); err != nil {
			return removed, 0, api.E("prune images", "", "", err)
		}
	}
	freed, err := s.Collect(ctx)
	return removed, freed, err
}

func (s *Store) removeUnused(ctx context.Context, o PruneOptions) ([]string, error) {
	recs, err := s.images.List(ctx)
	if err != nil {
		return nil, err
	}
	held, parts := s.holders(), s.parts(ctx, recs)
	var removed []string
	for _, rec := range recs {
		if !o.unwanted(rec, parts[rec.Target.Digest]) {
			continue
		}
		desc, m, err := s.manifest(ctx, rec.Target)
		if err == nil && (m.ArtifactType == kernelArtifact || len(held[desc.Digest.String()]) > 0) {
			continue
		}
		if o.Match != nil {
			img, _ := s.describe(ctx, rec, true) // what cannot be read is as old as its name
			var labels map[string]string
			if img.Config != nil {
				labels = img.Config.Labels
			}
			if !o.Match(img.Created, labels) {
				continue
			}
		}
		if err := s.images.Delete(ctx, rec.Name); err != nil && !notFound(err) {
			return removed, err
		}
		removed = append(removed, Familiar(rec.Name))
	}
	return removed, nil
}

// unwanted reports whether a name is one of those to remove, if nobody uses it. Part says
// that its image is one of another.
func (o *PruneOptions) unwanted(rec images.Image, part bool) bool {
	_, pushed := rec.Labels[pushedLabel]
	if untagged(rec) {
		return !part && (!pushed || o.Dangling && o.Pushed)
	}
	return o.All && !pushed
}

// untagged reports whether an image has a digest for a name.
func untagged(rec images.Image) bool { return strings.Contains(rec.Name, "@") }

// parts returns the manifests that are platforms of an index here, or have a subject here.
func (s *Store) parts(ctx context.Context, recs []images.Image) map[digest.Digest]bool {
	here, parts := map[digest.Digest]bool{}, map[digest.Digest]bool{}
	subjects := map[digest.Digest]digest.Digest{}
	for _, rec := range recs {
		here[rec.Target.Digest] = true
		b, err := s.readBlob(ctx, rec.Target, maxManifest)
		if err != nil {
			continue // damaged: nobody's part
		}
		m, err := parseAny(b, rec.Target.MediaType)
		if err != nil {
			continue
		}
		for _, d := range m.manifests {
			here[d.Digest], parts[d.Digest] = true, true
		}
		if m.subject != "" {
			subjects[rec.Target.Digest] = m.subject
		}
	}
	for d, subject := range subjects {
		parts[d] = parts[d] || here[subject]
	}
	return parts
}
