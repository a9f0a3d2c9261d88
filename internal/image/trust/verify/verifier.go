package verify

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/berthcloud/berth/internal/image/trust"
)

// verifier verifies signatures for one request.
type verifier struct {
	materials []root.TrustedMaterial
	options   []verify.VerifierOption
	policy    verify.PolicyOption
	subject   func(*x509.Certificate) error // nil: the policy has looked
}

// newVerifier reads what a request names.
func newVerifier(q *trust.Request) (*verifier, error) {
	switch {
	case q.Log != nil:
		return newKeylessVerifier(q)
	case q.Roots != nil:
		return newCertificateVerifier(q)
	}
	v := &verifier{options: []verify.VerifierOption{verify.WithNoObserverTimestamps()}, policy: verify.WithKey()}
	for _, text := range q.Keys {
		key, err := cryptoutils.UnmarshalPEMToPublicKey(text)
		if err != nil {
			return nil, fmt.Errorf("no public key in PEM: %w", err)
		}
		// cosign and podman sign by SHA-256 whatever the key.
		of, err := signature.LoadVerifier(key, crypto.SHA256)
		if err != nil {
			return nil, err
		}
		ever := root.NewExpiringKey(of, time.Time{}, time.Time{})
		v.materials = append(v.materials, root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) { return ever, nil }))
	}
	if len(v.materials) == 0 {
		return nil, errors.New("it names nobody")
	}
	return v, nil
}

// authority is a material of certificate authorities and logs.
type authority struct {
	root.BaseTrustedMaterial
	roots []root.CertificateAuthority
	logs  map[string]*root.TransparencyLog
}

func (a *authority) FulcioCertificateAuthorities() []root.CertificateAuthority { return a.roots }
func (a *authority) RekorLogs() map[string]*root.TransparencyLog               { return a.logs }

// newKeylessVerifier asks for a certificate of an identity, which was valid when a log
// took the signature in.
func newKeylessVerifier(q *trust.Request) (*verifier, error) {
	roots, err := authorities(q)
	if err != nil {
		return nil, err
	}
	key, err := cryptoutils.UnmarshalPEMToPublicKey(q.Log)
	if err != nil {
		return nil, fmt.Errorf("the log's key is no public key in PEM: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(der)
	// The policy says nothing of when the log's key is good: it is as long as it stands there.
	log := &root.TransparencyLog{ID: id[:], PublicKey: key, HashFunc: crypto.SHA256, SignatureHashFunc: crypto.SHA256, ValidityPeriodStart: time.Unix(0, 0)}
	who, err := verify.NewShortCertificateIdentity(q.Issuer, "", q.Email, "")
	if err != nil {
		return nil, err
	}
	return &verifier{
		materials: []root.TrustedMaterial{&authority{roots: roots, logs: map[string]*root.TransparencyLog{hex.EncodeToString(id[:]): log}}},
		options:   []verify.VerifierOption{verify.WithTransparencyLog(1), verify.WithIntegratedTimestamps(1)},
		policy:    verify.WithCertificateIdentity(who),
	}, nil
}

// newCertificateVerifier asks for a certificate that is valid now.
func newCertificateVerifier(q *trust.Request) (*verifier, error) {
	roots, err := authorities(q)
	if err != nil {
		return nil, err
	}
	return &verifier{
		materials: []root.TrustedMaterial{&authority{roots: roots}},
		options:   []verify.VerifierOption{verify.WithCurrentTime()},
		policy:    verify.WithoutIdentitiesUnsafe(), // subject looks
		subject: func(c *x509.Certificate) error {
			if q.Email != "" && !slices.Contains(c.EmailAddresses, q.Email) || q.Host != "" && !slices.Contains(c.DNSNames, q.Host) {
				return fmt.Errorf("its certificate is for %s", strings.Join(slices.Concat(c.EmailAddresses, c.DNSNames), " "))
			}
			return nil
		},
	}, nil
}

// authorities reads the certificates that are trusted, and those that may stand between.
func authorities(q *trust.Request) ([]root.CertificateAuthority, error) {
	between, err := cryptoutils.UnmarshalCertificatesFromPEM(q.Intermediates)
	if err != nil {
		return nil, fmt.Errorf("no certificates in PEM: %w", err)
	}
	anchors, err := cryptoutils.UnmarshalCertificatesFromPEM(q.Roots)
	if err == nil && len(anchors) == 0 {
		err = errors.New("there are none")
	}
	if err != nil {
		return nil, fmt.Errorf("no certificates in PEM: %w", err)
	}
	var list []root.CertificateAuthority
	for _, c := range anchors {
		list = append(list, &root.FulcioCertificateAuthority{Root: c, Intermediates: between})
	}
	return list, nil
}

// verifyArtifact returns nil if b is a signature of content.
func (v *verifier) verifyArtifact(b *bundle.Bundle, content []byte) error {
	sum := sha256.Sum256(content)
	return v.verify(b, verify.WithArtifactDigest("sha256", sum[:]))
}

// verifyStatement returns nil if b is a signature of a statement about the digest.
func (v *verifier) verifyStatement(b *bundle.Bundle, algorithm, digest string) error {
	sum, err := decodeHex(digest)
	if err != nil {
		return err
	}
	return v.verify(b, verify.WithArtifactDigest(algorithm, sum))
}

func (v *verifier) verify(b *bundle.Bundle, of verify.ArtifactPolicyOption) error {
	var last error
	for _, material := range v.materials {
		by, err := verify.NewVerifier(material, v.options...)
		if err != nil {
			return err
		}
		if _, last = by.Verify(b, verify.NewPolicy(of, v.policy)); last == nil {
			return v.lookAt(b)
		}
	}
	return last
}

// lookAt looks at whose certificate it is.
func (v *verifier) lookAt(b *bundle.Bundle) error {
	if v.subject == nil {
		return nil
	}
	content, err := b.VerificationContent()
	if err != nil {
		return err
	}
	c := content.Certificate()
	if c == nil {
		return errors.New("it has no certificate")
	}
	return v.subject(c)
}

func decodeHex(s string) ([]byte, error) {
	b, err := hex.DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("%.100q is no hexadecimal number", s)
	}
	return b, nil
}
