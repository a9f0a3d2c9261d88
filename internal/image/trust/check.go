package trust

import (
	"context"
	"errors"
	"fmt"
	"os"
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
// key of the policy cannot be read; those of fetching and of the verifier.
func (p *Policy) Check(ctx context.Context, name string, target digest.Digest, fetch Signatures, v Verifier) error {
	ref, err := reference.ParseNamed(name)
	if err != nil {
		return api.E("", api.Invalid, name, err)
	}
	q := Request{Name: name, Digest: target}
	fetched := false
	for _, r := range p.requirements(ref.Name()) {
		switch r.Type {
		case acceptAnything:
			continue
		case reject:
			return p.denied(errors.New("rejects the repository"))
		}
		if !fetched {
			if q.Signatures, err = fetch(ctx); err != nil {
				return err
			}
			fetched = true
		}
		if err := p.meet(ctx, r, q, v); err != nil {
			return err
		}
	}
	return nil
}

// meet returns nil if one of the signatures meets a requirement.
func (p *Policy) meet(ctx context.Context, r requirement, q Request, v Verifier) error {
	if len(q.Signatures) == 0 {
		return p.denied(errors.New("requires a signature, and the image has none"))
	}
	if err := r.fill(&q); err != nil {
		return p.broken(err)
	}
	answer, err := v.Verify(ctx, &q)
	switch {
	case err != nil:
		return err
	case answer.Unreadable != "":
		return p.broken(fmt.Errorf("%s: %s", r.who(), api.OneLine(answer.Unreadable)))
	case answer.Why != "":
		return p.denied(fmt.Errorf("requires a signature by %s, and of the image's %d none is: %s", r.who(), len(q.Signatures), api.OneLine(answer.Why)))
	}
	return nil
}

// fill adds who has to sign.
func (r *requirement) fill(q *Request) (err error) {
	read := func(path string) (text []byte) {
		if path != "" && err == nil {
			text, err = os.ReadFile(path)
		}
		return text
	}
	q.Identity = r.Identity
	for _, path := range r.keys() {
		q.Keys = append(q.Keys, read(path))
	}
	if r.KeyData != nil {
		q.Keys = append(q.Keys, r.KeyData)
	}
	if p := r.PKI; p != nil {
		q.Roots, q.Intermediates, q.Email, q.Host = read(p.Roots), read(p.Intermediates), p.Email, p.Host
	}
	if f := r.Fulcio; f != nil {
		q.Roots, q.Issuer, q.Email, q.Log = read(f.CA), f.Issuer, f.Subject, read(r.RekorKey)
	}
	return err
}

// who says in a message by whom a signature has to be.
func (r *requirement) who() string {
	switch {
	case r.Fulcio != nil:
		return r.Fulcio.Subject + " as " + r.Fulcio.Issuer + " knows him"
	case r.PKI != nil:
		return strings.TrimSpace(r.PKI.Email + " " + r.PKI.Host)
	case len(r.keys()) == 0:
		return "the key in it"
	}
	return "the key " + strings.Join(r.keys(), " or ")
}

// denied is the error of an image that does not do, with the way out.
func (p *Policy) denied(why error) error {
	return api.E("", api.Denied, "", fmt.Errorf("the policy %s %w; have it signed, or change the policy", p.path, why))
}

// broken is the error of a policy that cannot be followed.
func (p *Policy) broken(why error) error { return api.E("read policy", api.Invalid, p.path, why) }
