package image

import (
	"context"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"

	"github.com/berthcloud/berth/api"
)

// gcRefPrefix begins the labels that lead from a blob to what it needs.
const gcRefPrefix = "containerd.io/gc.ref.content"

// Usage returns how many images there are, how many of them instances hold, what their
// content takes of the disk, each blob once, and what of it pruning all would free. What
// belongs to no image is kept for builds: cached is what that takes.
func (s *Store) Usage(ctx context.Context) (u api.UsageRow, cached int64, err error) {
	ctx = s.context(ctx)
	blobs := map[digest.Digest]content.Info{}
	err = s.content.Walk(ctx, func(info content.Info) error {
		blobs[info.Digest] = info
		cached += s.allocated(info)
		return nil
	})
	if err != nil {
		return u, 0, api.E("count images", "", "", err)
	}
	recs, err := s.images.List(ctx)
	if err != nil {
		return u, 0, api.E("count images", "", "", err)
	}
	held, used, all := s.holders(), map[digest.Digest]bool{}, map[digest.Digest]bool{}
	for manifest := range held {
		follow(blobs, digest.Digest(manifest), all)
		follow(blobs, digest.Digest(manifest), used)
	}
	for _, rec := range recs {
		u.Total++
		follow(blobs, rec.Target.Digest, all)
		desc, m, err := s.manifest(ctx, rec.Target)
		_, pushed := rec.Labels[pushedLabel]
		active := err == nil && len(held[desc.Digest.String()]) > 0
		if active {
			u.Active++
		}
		if active || pushed || err == nil && m.ArtifactType == kernelArtifact {
			follow(blobs, rec.Target.Digest, used)
		}
	}
	for d := range all {
		u.Size += s.allocated(blobs[d])
	}
	cached -= u.Size
	u.Reclaimable = u.Size
	for d := range used {
		u.Reclaimable -= s.allocated(blobs[d])
	}
	return u, cached, nil
}

// follow adds a blob and all it leads to.
func follow(blobs map[digest.Digest]content.Info, d digest.Digest, to map[digest.Digest]bool) {
	info, ok := blobs[d]
	if !ok || to[d] {
		return
	}
	to[d] = true
	for key, value := range info.Labels {
		if strings.HasPrefix(key, gcRefPrefix) {
			follow(blobs, digest.Digest(value), to)
		}
	}
}
