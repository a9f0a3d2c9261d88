package image

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/images"

	"github.com/berthcloud/berth/api"
)

// Tag gives the image that name means another name, which may have meant
// another image before.
func (s *Store) Tag(ctx context.Context, name, newName string) error {
	ctx = s.context(ctx)
	rec, err := s.lookup(ctx, name)
	if err != nil {
		return api.E("tag image", "", "", err)
	}
	to, err := tagName(newName)
	if err != nil {
		return api.E("tag image", "", "", err)
	}
	return api.E("tag image", "", newName, s.setName(ctx, to, rec.Target, nil))
}

// Remove removes a name, and the image's content where nothing else needs it.
// The last name of an image that instances hold is not removed. It returns the
// name in the short form.
func (s *Store) Remove(ctx context.Context, name string) (string, error) {
	const op = "remove image"
	ctx = s.context(ctx)
	rec, err := s.lookup(ctx, name)
	if err != nil {
		return "", api.E(op, "", "", err)
	}
	users, err := s.users(ctx, rec)
	if err != nil {
		return "", api.E(op, "", Familiar(rec.Name), err)
	}
	if len(users) > 0 {
		return "", api.E(op, api.InUse, Familiar(rec.Name), fmt.Errorf("in use by %s; remove that first, or give the image another name", strings.Join(users, ", ")))
	}
	if err := s.images.Delete(ctx, rec.Name); err != nil {
		return "", api.E(op, "", Familiar(rec.Name), err)
	}
	_, err = s.Collect(ctx)
	return Familiar(rec.Name), api.E(op, "", Familiar(rec.Name), err)
}

// users returns the instances that would lose an image's last name with rec.
func (s *Store) users(ctx context.Context, rec images.Image) ([]string, error) {
	all, err := s.images.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, other := range all {
		if other.Name != rec.Name && other.Target.Digest == rec.Target.Digest {
			return nil, nil
		}
	}
	desc, _, err := s.manifest(ctx, rec.Target)
	if err != nil {
		return nil, nil // damaged: nobody can use it, and it may go
	}
	return s.holders()[desc.Digest.String()], nil
}
