package verify

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image/trust"
)

const (
	imageName = "registry.example.com/team/app:1"
	signer    = "builder@example.com"
	issuer    = "https://accounts.example.com"
)

var image = digest.FromString("the image's manifest")

// inProcess verifies without a program.
type inProcess struct{}

func (inProcess) Verify(_ context.Context, q *trust.Request) (trust.Answer, error) {
	return Verify(q), nil
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// write writes a file of the test's and returns its path.
func write(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// public writes a public key in PEM.
func public(t *testing.T, key crypto.PublicKey) string {
	t.Helper()
	text, err := cryptoutils.MarshalPublicKeyToPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, "key.pub", text)
}

// payloadOf is what is signed of an image under a name.
func payloadOf(name string, of digest.Digest) []byte {
	return fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, name, of)
}

// simple signs a payload as cosign does.
func simple(t *testing.T, key *ecdsa.PrivateKey, payload []byte) trust.Signature {
	t.Helper()
	sum := sha256.Sum256(payload)
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return trust.Signature{MediaType: trust.SimpleSigning, Blob: payload, Annotations: map[string]string{signatureAnnotation: base64.StdEncoding.EncodeToString(sig)}}
}

// with returns a signature with further annotations.
func with(s trust.Signature, annotations map[string]string) trust.Signature {
	s.Annotations = maps.Clone(s.Annotations)
	maps.Copy(s.Annotations, annotations)
	return s
}

// policy writes and loads a policy with requirements of the repository.
func policy(t *testing.T, requirements string) *trust.Policy {
	t.Helper()
	path := write(t, "policy.json", fmt.Appendf(nil, `{"default": [{"type": "reject"}], "transports": {"docker": {"registry.example.com/team": [%s]}}}`, requirements))
	p, err := trust.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// expect checks an image with signatures, and wants an error that says something; ""
// for none.
func expect(t *testing.T, what string, p *trust.Policy, says string, have ...trust.Signature) {
	t.Helper()
	err := p.Check(t.Context(), imageName, image, func(context.Context) ([]trust.Signature, error) { return have, nil }, inProcess{})
	if says == "" {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		return
	}
	if !api.IsKind(err, api.Denied) || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%s: error %v (%s), want one that denies and says %q", what, err, api.KindOf(err), says)
	}
}

func TestKeys(t *testing.T) {
	key, other := newKey(t), newKey(t)
	path, otherPath := public(t, key.Public()), public(t, other.Public())
	p := policy(t, fmt.Sprintf(`{"type": "sigstoreSigned", "keyPath": %q}`, path))
	good := simple(t, key, payloadOf(imageName, image))
	expect(t, "its signature", p, "", good)
	expect(t, "of the repository, as cosign's", p, "", simple(t, key, payloadOf("registry.example.com/team/app", image)))
	expect(t, "none", p, "requires a signature, and the image has none")
	expect(t, "of another key", p, "requires a signature by the key "+path, simple(t, other, payloadOf(imageName, image)))
	expect(t, "one of several", p, "", simple(t, other, payloadOf(imageName, image)), good)
	expect(t, "of another image", p, "another image", simple(t, key, payloadOf(imageName, digest.FromString("other"))))
	expect(t, "of another repository", p, "it is of registry.example.com/team/other", simple(t, key, payloadOf("registry.example.com/team/other:1", image)))
	expect(t, "of another tag", p, "another tag", simple(t, key, payloadOf("registry.example.com/team/app:0", image)))
	expect(t, "of something else", p, "it signs a", simple(t, key, []byte(`{"critical":{"type":"atomic container signature"}}`)))
	expect(t, "of no JSON", p, "no JSON", simple(t, key, []byte("x")))
	changed := good
	changed.Blob = payloadOf(imageName, digest.FromString("changed"))
	expect(t, "a changed payload", p, "none is", changed)
	expect(t, "without a signature", p, "no signature", trust.Signature{MediaType: trust.SimpleSigning, Blob: good.Blob})
	expect(t, "a bundle that is none", p, "none is", trust.Signature{MediaType: trust.Bundle + ".v0.3+json", Blob: []byte("{}")})
	expect(t, "nothing for nothing", p, "none is", trust.Signature{})

	both := policy(t, fmt.Sprintf(`{"type": "sigstoreSigned", "keyPaths": [%q, %q]}`, otherPath, path))
	expect(t, "either key", both, "", good)
	two := policy(t, fmt.Sprintf(`{"type": "sigstoreSigned", "keyPath": %q}, {"type": "sigstoreSigned", "keyPath": %q}`, path, otherPath))
	expect(t, "one of two that are required", two, otherPath, good)
	expect(t, "two of two", two, "", good, simple(t, other, payloadOf(imageName, image)))
	pemKey, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(pemKey)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "a key in the policy", policy(t, fmt.Sprintf(`{"type": "sigstoreSigned", "keyData": %s}`, data)), "", good)
	missing := policy(t, `{"type": "sigstoreSigned", "keyPath": "/nonexistent/key.pub"}`)
	err = missing.Check(t.Context(), imageName, image, func(context.Context) ([]trust.Signature, error) { return []trust.Signature{good}, nil }, inProcess{})
	if !api.IsKind(err, api.Invalid) || !strings.Contains(err.Error(), "/nonexistent/key.pub") {
		t.Errorf("a missing key: %v", err)
	}
}

func TestIdentities(t *testing.T) {
	key := newKey(t)
	path := public(t, key.Public())
	for _, c := range []struct{ identity, signed, says string }{
		{`{"type": "matchExact"}`, imageName, ""},
		{`{"type": "matchExact"}`, "registry.example.com/team/app", "without a tag"},
		{`{"type": "matchExact"}`, "registry.example.com/team/app:0", "another tag"},
		{`{"type": "matchRepository"}`, "registry.example.com/team/app:0", ""},
		{`{"type": "matchRepository"}`, "registry.example.com/app:0", "it is of"},
		{`{"type": "exactRepository", "dockerRepository": "origin.example.com/app"}`, "origin.example.com/app:7", ""},
		{`{"type": "exactRepository", "dockerRepository": "origin.example.com/app"}`, imageName, "it is of"},
		{`{}`, "not a name", "no image's name"},
	} {
		p := policy(t, fmt.Sprintf(`{"type": "sigstoreSigned", "keyPath": %q, "signedIdentity": %s}`, path, c.identity))
		expect(t, c.identity+" "+c.signed, p, c.says, simple(t, key, payloadOf(c.signed, image)))
	}
}

// TestBundle signs a statement about the image, as cosign 3 does.
func TestBundle(t *testing.T) {
	keys, err := sign.NewEphemeralKeypair(nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := keys.GetPublicKeyPem()
	if err != nil {
		t.Fatal(err)
	}
	bundleOf := func(of digest.Digest) trust.Signature {
		statement := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":%q}}],"predicateType":"https://sigstore.dev/cosign/sign/v1","predicate":{}}`, of.Encoded())
		b, err := sign.Bundle(&sign.DSSEData{Data: []byte(statement), PayloadType: "application/vnd.in-toto+json"}, keys, sign.BundleOptions{Context: t.Context()})
		if err != nil {
			t.Fatal(err)
		}
		blob, err := protojson.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		return trust.Signature{MediaType: trust.Bundle + ".v0.3+json", Blob: blob}
	}
	p := policy(t, fmt.Sprintf(`{"type": "sigstoreSigned", "keyPath": %q}`, write(t, "cosign.pub", []byte(text))))
	expect(t, "its signature", p, "", bundleOf(image))
	expect(t, "of another image", p, "none is", bundleOf(digest.FromString("other")))
	expect(t, "of another key", policy(t, fmt.Sprintf(`{"type": "sigstoreSigned", "keyPath": %q}`, public(t, newKey(t).Public()))), "none is", bundleOf(image))
}

// newAuthority makes a certificate authority, and returns it with what signs a key.
func newAuthority(t *testing.T) (roots string, issue func(crypto.PublicKey, ...string) string) {
	t.Helper()
	key := newKey(t)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	text := func(template *x509.Certificate, of crypto.PublicKey) string {
		der, err := x509.CreateCertificate(rand.Reader, template, root, of, key)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	return write(t, "roots.pem", []byte(text(root, key.Public()))), func(of crypto.PublicKey, emails ...string) string {
		return text(&x509.Certificate{
			SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "leaf"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Minute),
			EmailAddresses: emails, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		}, of)
	}
}

func TestCertificates(t *testing.T) {
	roots, issue := newAuthority(t)
	_, stranger := newAuthority(t)
	key := newKey(t)
	p := policy(t, fmt.Sprintf(`{"type": "sigstoreSigned", "pki": {"caRootsPath": %q, "subjectEmail": %q}}`, roots, signer))
	bare := simple(t, key, payloadOf(imageName, image))
	by := func(certificate string) trust.Signature {
		return with(bare, map[string]string{certificateAnnotation: certificate})
	}
	expect(t, "its certificate", p, "", by(issue(key.Public(), signer)))
	expect(t, "somebody else's", p, "its certificate is for eve@example.com", by(issue(key.Public(), "eve@example.com")))
	expect(t, "of another authority", p, "none is", by(stranger(key.Public(), signer)))
	expect(t, "of another key", p, "none is", by(issue(newKey(t).Public(), signer)))
	expect(t, "no certificate", p, "none is", bare)
	expect(t, "no certificate at all", p, "none is", by("-----BEGIN"))
	withKey := policy(t, fmt.Sprintf(`{"type": "sigstoreSigned", "keyPath": %q}`, public(t, key.Public())))
	expect(t, "a certificate where a key is required", withKey, "none is", by(issue(key.Public(), signer)))
}

// TestKeyless signs by a certificate of an identity, with an entry in a log.
func TestKeyless(t *testing.T) {
	sigstore, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	authority := sigstore.FulcioCertificateAuthorities()[0].(*root.FulcioCertificateAuthority)
	chain, err := cryptoutils.MarshalCertificatesToPEM(append(authority.Intermediates, authority.Root))
	if err != nil {
		t.Fatal(err)
	}
	var log crypto.PublicKey
	for _, l := range sigstore.RekorLogs() {
		log = l.PublicKey
	}
	requirement := func(issuer, subject string, log crypto.PublicKey) string {
		return fmt.Sprintf(`{"type": "sigstoreSigned", "fulcio": {"caPath": %q, "oidcIssuer": %q, "subjectEmail": %q}, "rekorPublicKeyPath": %q}`,
			write(t, "fulcio.pem", chain), issuer, subject, public(t, log))
	}
	blob := payloadOf(imageName, image)
	s := keyless(t, sigstore, blob)
	p := policy(t, requirement(issuer, signer, log))
	expect(t, "its signature", p, "", s)
	expect(t, "without the log", p, "none is", trust.Signature{MediaType: s.MediaType, Blob: s.Blob, Annotations: map[string]string{
		signatureAnnotation: s.Annotations[signatureAnnotation], certificateAnnotation: s.Annotations[certificateAnnotation]}})
	expect(t, "another's", policy(t, requirement(issuer, "eve@example.com", log)), "none is", s)
	expect(t, "known elsewhere", policy(t, requirement("https://elsewhere.example.com", signer, log)), "none is", s)
	expect(t, "another log", policy(t, requirement(issuer, signer, newKey(t).Public())), "none is", s)
	changed := s
	changed.Blob = payloadOf(imageName, digest.FromString("other"))
	expect(t, "a changed payload", p, "none is", changed)
	expect(t, "no entry", p, "not readable", with(s, map[string]string{logAnnotation: "{"}))
}

// keyless signs a payload by a short-lived certificate, as cosign annotates it.
func keyless(t *testing.T, sigstore *ca.VirtualSigstore, blob []byte) trust.Signature {
	t.Helper()
	entity, err := sigstore.Sign(signer, issuer, blob)
	if err != nil {
		t.Fatal(err)
	}
	content, err := entity.VerificationContent()
	if err != nil {
		t.Fatal(err)
	}
	signed, err := entity.SignatureContent()
	if err != nil {
		t.Fatal(err)
	}
	entries, err := entity.TlogEntries()
	if err != nil || len(entries) != 1 {
		t.Fatal(entries, err)
	}
	certificate, err := cryptoutils.MarshalCertificateToPEM(content.Certificate())
	if err != nil {
		t.Fatal(err)
	}
	entry := entries[0]
	promised := tlog.RekorPayload{Body: entry.Body(), IntegratedTime: entry.IntegratedTime().Unix(), LogIndex: entry.LogIndex(), LogID: hex.EncodeToString([]byte(entry.LogKeyID()))}
	timestamp, err := sigstore.RekorSignPayload(promised)
	if err != nil {
		t.Fatal(err)
	}
	log, err := json.Marshal(map[string]any{"SignedEntryTimestamp": timestamp, "Payload": promised})
	if err != nil {
		t.Fatal(err)
	}
	return trust.Signature{MediaType: trust.SimpleSigning, Blob: blob, Annotations: map[string]string{
		signatureAnnotation:   base64.StdEncoding.EncodeToString(signed.Signature()),
		certificateAnnotation: string(certificate), logAnnotation: string(log),
	}}
}

// FuzzSignature: whatever a registry sends as a signature, it is refused without a
// panic.
func FuzzSignature(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	text, err := cryptoutils.MarshalPublicKeyToPEM(key.Public())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(trust.SimpleSigning, payloadOf(imageName, image), "AAAA", "-----BEGIN", "{}")
	f.Add(trust.Bundle+".v0.3+json", []byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{}},"dsseEnvelope":{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"AAAA"}]}}`), "", "", "")
	f.Fuzz(func(t *testing.T, mediaType string, blob []byte, sig, certificate, log string) {
		s := trust.Signature{MediaType: mediaType, Blob: blob, Annotations: map[string]string{signatureAnnotation: sig, certificateAnnotation: certificate, logAnnotation: log}}
		if a := Verify(&trust.Request{Name: imageName, Digest: image, Keys: [][]byte{text}, Signatures: []trust.Signature{s}}); a.Why == "" {
			t.Error("a signature of no key is accepted")
		}
	})
}
