package trust

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/berthcloud/berth/api"
)

// Signatures fetches the signatures that the registry has of an image; none is no
// error. It is called where a requirement asks for one.
type Signatures func(context.Context) ([]Signature, error)

// Check decides whether an image may come from its registry. The name is a full one,
// as in docker.io/library/debian:12, the digest that of what the name led to.
//
// Errors: Denied, naming what is required and why no signature meets it; Invalid where a
// key of the policy cannot be read; those of fetching.
func (p *Policy) Check(ctx context.Context, name string, target digest.Digest, fetch Signatures) error {
	ref, err := reference.ParseNamed(name)
	if err != nil {
		return api.E("", api.Invalid, name, err)
	}
	var have []Signature
	fetched := false
	for _, r := range p.requirements(ref.Name()) {
		switch r.Type {
		case acceptAnything:
			continue
		case reject:
			return p.denied(errors.New("rejects the repository"))
		}
		if !fetched {
			if have, err = fetch(ctx); err != nil {
				return err
			}
			fetched = true
		}
		if err := p.met(r, ref, target, have); err != nil {
			return err
		}
	}
	return nil
}

// met returns nil if one of the signatures meets a requirement.
func (p *Policy) met(r requirement, ref reference.Named, target digest.Digest, have []Signature) error {
	if len(have) == 0 {
		return p.denied(errors.New("requires a signature, and the image has none"))
	}
	v, err := r.verifier()
	if err != nil {
		return api.E("read policy", api.Invalid, p.path, err)
	}
	var last error
	for _, s := range have {
		if last = s.verify(v, r, ref, target); last == nil {
			return nil
		}
	}
	return p.denied(fmt.Errorf("requires a signature by %s, and of the image's %d none is: %s", v.who, len(have), api.OneLine(last.Error())))
}

// denied is the error of an image that does not do, with the way out.
func (p *Policy) denied(why error) error {
	return api.E("", api.Denied, "", fmt.Errorf("the policy %s %w; have it signed, or change the policy", p.path, why))
}

// agrees reports whether the name that was signed is, as the requirement wants it, the
// one that is pulled. cosign signs repositories without tags, and podman names with
// them.
func (r *requirement) agrees(signed string, ref reference.Named) error {
	name, err := reference.ParseNormalizedNamed(signed)
	if err != nil {
		return fmt.Errorf("it is of %.100q, which is no image's name", signed)
	}
	tagged := !reference.IsNameOnly(name)
	if !tagged && r.Identity.Type == matchExact {
		return fmt.Errorf("it is of the repository %.100s, without a tag", signed)
	}
	_, byDigest := ref.(reference.Digested)
	want, exact := ref.Name(), tagged && !byDigest
	switch r.Identity.Type {
	case matchRepository:
		exact = false
	case exactRepository:
		want, exact = r.Identity.Repository, false
	}
	if name.Name() != want {
		return fmt.Errorf("it is of %.100s", signed)
	}
	if exact && strings.TrimPrefix(name.String(), name.Name()) != strings.TrimPrefix(ref.String(), ref.Name()) {
		return fmt.Errorf("it is of %.100s, another tag", signed)
	}
	return nil
}
