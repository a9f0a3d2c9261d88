// Package verify verifies signatures of images: it is what berth-verify does. Signatures
// in any form are written as bundles of Sigstore's and verified by its library.
package verify

import (
	"fmt"
	"strings"

	"github.com/distribution/reference"

	"github.com/berthcloud/berth/internal/image/trust"
)

// Verify answers a request.
func Verify(q *trust.Request) trust.Answer {
	v, err := newVerifier(q)
	if err != nil {
		return trust.Answer{Unreadable: err.Error()}
	}
	why := "there is no signature"
	for _, s := range q.Signatures {
		err := (*one)(&s).verify(v, q)
		if err == nil {
			return trust.Answer{}
		}
		why = err.Error()
	}
	return trust.Answer{Why: why}
}

// agrees reports whether the name that was signed is, as it is required, the one that
// is pulled. cosign signs repositories without tags, and podman names with them.
func agrees(signed string, q *trust.Request) error {
	ref, err := reference.ParseNamed(q.Name)
	if err != nil {
		return err
	}
	name, err := reference.ParseNormalizedNamed(signed)
	if err != nil {
		return fmt.Errorf("it is of %.100q, which is no image's name", signed)
	}
	tagged := !reference.IsNameOnly(name)
	if !tagged && q.Identity.Type == trust.MatchExact {
		return fmt.Errorf("it is of the repository %.100s, without a tag", signed)
	}
	_, byDigest := ref.(reference.Digested)
	want, exact := ref.Name(), tagged && !byDigest
	switch q.Identity.Type {
	case trust.MatchRepository:
		exact = false
	case trust.ExactRepository:
		want, exact = q.Identity.Repository, false
	}
	if name.Name() != want {
		return fmt.Errorf("it is of %.100s", signed)
	}
	if exact && strings.TrimPrefix(name.String(), name.Name()) != strings.TrimPrefix(ref.String(), ref.Name()) {
		return fmt.Errorf("it is of %.100s, another tag", signed)
	}
	return nil
}
