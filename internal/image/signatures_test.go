package image_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ggcrname "github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/image/trust"
	"github.com/berthcloud/berth/internal/testenv"
)

// signAs signs an image in a registry by a new key, as cosign does, and returns the
// public key's file.
func signAs(t *testing.T, name string, target v1.Hash) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	payload := fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"}}`, name, target)
	sum := sha256.Sum256(payload)
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	pushSignatures(t, name, target, mutate.Addendum{
		Layer:       static.NewLayer(payload, trust.SimpleSigning),
		Annotations: map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(sig)},
	})
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key.pub")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// bundleAs signs an image in a registry by a new key, as cosign 3 does, and returns the
// public key's file.
func bundleAs(t *testing.T, name string, target v1.Image) string {
	t.Helper()
	of, err := partial.Descriptor(target)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := sign.NewEphemeralKeypair(nil)
	if err != nil {
		t.Fatal(err)
	}
	statement := fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":%q}}],"predicateType":"https://sigstore.dev/cosign/sign/v1","predicate":{}}`, of.Digest.Hex)
	b, err := sign.Bundle(&sign.DSSEData{Data: statement, PayloadType: "application/vnd.in-toto+json"}, keys, sign.BundleOptions{Context: t.Context()})
	if err != nil {
		t.Fatal(err)
	}
	blob, err := protojson.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	const mediaType = trust.Bundle + ".v0.3+json"
	img, err := mutate.Append(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), mediaType), mutate.Addendum{Layer: static.NewLayer(blob, mediaType)})
	if err != nil {
		t.Fatal(err)
	}
	ref, err := ggcrname.ParseReference(name)
	if err != nil {
		t.Fatal(err)
	}
	refers := mutate.Subject(img, *of).(v1.Image)
	digest, err := refers.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref.Context().Digest(digest.String()), refers); err != nil {
		t.Fatal(err)
	}
	text, err := keys.GetPublicKeyPem()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key.pub")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// pushSignatures puts the manifest of an image's signatures where it is looked for.
func pushSignatures(t *testing.T, name string, target v1.Hash, layers ...mutate.Addendum) {
	t.Helper()
	ref, err := ggcrname.ParseReference(name)
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.Append(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layers...)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref.Context().Tag(trust.SimpleTag(digest.Digest(target.String()))), img); err != nil {
		t.Fatal(err)
	}
}

// TestPullPolicy pulls what somebody has signed, and what nobody has.
func TestPullPolicy(t *testing.T) {
	srv := httptest.NewServer(registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(srv.Close)
	host, digests := strings.TrimPrefix(srv.URL, "http://"), map[string]v1.Hash{}
	for _, repo := range []string{"team/app:1", "team/app:2", "free/app:1", "banned/app:1"} {
		of, err := push(t, host, repo, rootfs(t, "file", repo)).Digest()
		if err != nil {
			t.Fatal(err)
		}
		digests[repo] = of
	}
	key := signAs(t, host+"/team/app:1", digests["team/app:1"])
	other := signAs(t, host+"/free/app:1", digests["free/app:1"])
	file := filepath.Join(t.TempDir(), "policy.json")
	write := func(key string) {
		t.Helper()
		policy := fmt.Sprintf(`{"default": [{"type": "reject"}], "transports": {"docker": {%q: [{"type": "sigstoreSigned", "keyPath": %q}], %q: [{"type": "insecureAcceptAnything"}]}}}`,
			host+"/team", key, host+"/free")
		if err := os.WriteFile(file, []byte(policy), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := image.Open(t.TempDir(), image.Options{Policy: file, Verifier: trust.Program{Path: filepath.Join(testenv.Programs(t), "berth-verify"), User: 65534}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	pull := func(repo, says string) {
		t.Helper()
		name, err := s.Pull(t.Context(), host+"/"+repo, image.PullOptions{})
		if says == "" {
			if err != nil {
				t.Errorf("%s: %v", repo, err)
			}
			return
		}
		if !api.IsKind(err, api.Denied) || !strings.Contains(err.Error(), repo) || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v; want one that denies and says %q", repo, err, says)
		}
		if _, err := s.Resolve(t.Context(), name); !api.IsKind(err, api.NotFound) {
			t.Errorf("%s is here: %v", repo, err)
		}
	}
	pull("team/app:1", "") // there is no policy yet
	if _, err := s.Remove(t.Context(), host+"/team/app:1"); err != nil {
		t.Fatal(err)
	}
	write(other)
	pull("team/app:1", "requires a signature by the key "+other)
	write(key)
	pull("team/app:1", "")
	pull("team/app:2", "the image has none")
	write(bundleAs(t, host+"/team/app:3", push(t, host, "team/app:3", rootfs(t, "file", "3"))))
	pull("team/app:3", "")
	pull("free/app:1", "")
	pull("banned/app:1", "rejects the repository")
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pull(t.Context(), host+"/free/app:1", image.PullOptions{}); !api.IsKind(err, api.Invalid) || !strings.Contains(err.Error(), file) {
		t.Errorf("a broken policy: %v", err)
	}
}

// TestHostileSignatures: a registry that answers a question for signatures with too
// much, or with what it did not announce, ends the pull.
func TestHostileSignatures(t *testing.T) {
	var spoil string
	host := newRegistry(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if spoil != "" && r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, spoil) {
				_, _ = w.Write([]byte("other bytes"))
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	target, err := push(t, host, "app", rootfs(t, "a", "b")).Digest()
	if err != nil {
		t.Fatal(err)
	}
	signatures := func(layers ...[]byte) string {
		t.Helper()
		var list []mutate.Addendum
		for _, l := range layers {
			list = append(list, mutate.Addendum{Layer: static.NewLayer(l, trust.SimpleSigning)})
		}
		pushSignatures(t, host+"/app", target, list...)
		return digestOf(layers[0])
	}
	file := filepath.Join(t.TempDir(), "policy.json")
	if err := os.WriteFile(file, []byte(`{"default": [{"type": "sigstoreSigned", "keyPath": "/nonexistent"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := image.Open(t.TempDir(), image.Options{Policy: file, Verifier: trust.Program{Path: filepath.Join(testenv.Programs(t), "berth-verify"), User: 65534}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	refused := func(says string) {
		t.Helper()
		_, err := s.Pull(t.Context(), host+"/app", image.PullOptions{})
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v; want %q", err, says)
		}
	}
	many := make([][]byte, 51)
	for i := range many {
		many[i] = fmt.Append(nil, i)
	}
	signatures(many...)
	refused("more than 50 signatures")
	signatures(make([]byte, 2<<20))
	refused("more than 1048576")
	spoil = signatures([]byte("a signature"))
	refused("not what it announced")
}
