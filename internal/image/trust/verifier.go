package trust

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
)

// verifier verifies signatures for one requirement.
type verifier struct {
	who       string // in a message: by whom a signature has to be
	materials []root.TrustedMaterial
	options   []verify.VerifierOption
	policy    verify.PolicyOption
	subject   func(*x509.Certificate) error // nil: the policy has looked
}

// verifier reads what a requirement names.
func (r *requirement) verifier() (*verifier, error) {
	switch {
	case r.Fulcio != nil:
		return r.fulcioVerifier()
	case r.PKI != nil:
		return r.PKI.verifier()
	}
	v := &verifier{
		who:     "the key " + strings.Join(r.keys(), " or "),
		options: []verify.VerifierOption{verify.WithNoObserverTimestamps()}, policy: verify.WithKey(),
	}
	texts := map[string][]byte{}
	for _, path := range r.keys() {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		texts[path] = content
	}
	if r.KeyData != nil {
		texts["keyData"] = r.KeyData
	}
	for name, text := range texts {
		key, err := cryptoutils.UnmarshalPEMToPublicKey(text)
		if err != nil {
			return nil, fmt.Errorf("%s is no public key in PEM: %w", name, err)
		}
		// cosign and podman sign by SHA-256 whatever the key.
		of, err := signature.LoadVerifier(key, crypto.SHA256)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		ever := root.NewExpiringKey(of, time.Time{}, time.Time{})
		v.materials = append(v.materials, root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) { return ever, nil }))
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

// fulcioVerifier asks for a certificate of an identity, which was valid when a log took
// the signature in.
func (r *requirement) fulcioVerifier() (*verifier, error) {
	roots, err := authorities(r.Fulcio.CA, "")
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(r.RekorKey)
	if err != nil {
		return nil, err
	}
	key, err := cryptoutils.UnmarshalPEMToPublicKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s is no public key in PEM: %w", r.RekorKey, err)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(der)
	// The policy says nothing of when the log's key is good: it is as long as it stands there.
	log := &root.TransparencyLog{ID: id[:], PublicKey: key, HashFunc: crypto.SHA256, SignatureHashFunc: crypto.SHA256, ValidityPeriodStart: time.Unix(0, 0)}
	who, err := verify.NewShortCertificateIdentity(r.Fulcio.Issuer, "", r.Fulcio.Subject, "")
	if err != nil {
		return nil, err
	}
	return &verifier{
		who:       r.Fulcio.Subject + " as " + r.Fulcio.Issuer + " knows him",
		materials: []root.TrustedMaterial{&authority{roots: roots, logs: map[string]*root.TransparencyLog{hex.EncodeToString(id[:]): log}}},
		options:   []verify.VerifierOption{verify.WithTransparencyLog(1), verify.WithIntegratedTimestamps(1)},
		policy:    verify.WithCertificateIdentity(who),
	}, nil
}

// verifier asks for a certificate that is valid now.
func (p *pki) verifier() (*verifier, error) {
	roots, err := authorities(p.Roots, p.Intermediates)
	if err != nil {
		return nil, err
	}
	return &verifier{
		who:       strings.TrimSpace(p.Email + " " + p.Host),
		materials: []root.TrustedMaterial{&authority{roots: roots}},
		options:   []verify.VerifierOption{verify.WithCurrentTime()},
		policy:    verify.WithoutIdentitiesUnsafe(), // subject looks
		subject: func(c *x509.Certificate) error {
			if p.Email != "" && !slices.Contains(c.EmailAddresses, p.Email) || p.Host != "" && !slices.Contains(c.DNSNames, p.Host) {
				return fmt.Errorf("its certificate is for %s", strings.Join(slices.Concat(c.EmailAddresses, c.DNSNames), " "))
			}
			return nil
		},
	}, nil
}

// authorities reads certificates that are trusted, and those that may stand between.
func authorities(roots, between string) ([]root.CertificateAuthority, error) {
	var intermediates []*x509.Certificate
	if between != "" {
		var err error
		if intermediates, err = certificates(between); err != nil {
			return nil, err
		}
	}
	anchors, err := certificates(roots)
	if err != nil {
		return nil, err
	}
	var list []root.CertificateAuthority
	for _, c := range anchors {
		list = append(list, &root.FulcioCertificateAuthority{Root: c, Intermediates: intermediates})
	}
	return list, nil
}

func certificates(path string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	list, err := cryptoutils.UnmarshalCertificatesFromPEM(text)
	if err == nil && len(list) == 0 {
		err = errors.New("it has none")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: certificates in PEM: %w", path, err)
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
