package registry_test

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/crypto/bcrypt"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/registry"
)

// caller sends requests as one user.
type caller struct {
	t              testing.TB
	base           string
	user, password string
	client         *http.Client
}

func (s *served) as(t testing.TB, user string) *caller {
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	return &caller{t: t, base: "http://" + s.addr, user: user, password: "secret of " + user, client: client}
}

// do sends a request and returns its answer, and the body, which is closed. Headers
// follow the body in pairs.
func (c *caller) do(method, path string, body []byte, headers ...string) (*http.Response, string) {
	c.t.Helper()
	if !strings.HasPrefix(path, "http") {
		path = c.base + path
	}
	r, err := http.NewRequestWithContext(c.t.Context(), method, path, strings.NewReader(string(body)))
	if err != nil {
		c.t.Fatal(err)
	}
	if c.user != "" {
		r.SetBasicAuth(c.user, c.password)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.client.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp, string(b)
}

// want sends a request whose answer is to have a status and, if it is an error, a code.
func (c *caller) want(status int, code, method, path string, body []byte, headers ...string) *http.Response {
	c.t.Helper()
	resp, text := c.do(method, path, body, headers...)
	if resp.StatusCode != status || code != "" && !strings.Contains(text, `"code":"`+code+`"`) {
		c.t.Errorf("%s %s as %q: %s %s; want %d %s", method, path, c.user, resp.Status, text, status, code)
	}
	return resp
}

// blob uploads a blob in one request.
func (c *caller) blob(repo string, b []byte) ocispec.Descriptor {
	c.t.Helper()
	d := digest.FromBytes(b)
	c.want(201, "", "POST", "/v2/"+repo+"/blobs/uploads/?digest="+d.String(), b)
	return ocispec.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: int64(len(b))}
}

// artifact is a manifest of one blob.
func artifact(config, blob ocispec.Descriptor, subject *ocispec.Descriptor) []byte {
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "text/test", Config: config, Layers: []ocispec.Descriptor{blob}, Subject: subject}
	m.SchemaVersion = 2
	b, _ := json.Marshal(m)
	return b
}

const manifestType = ocispec.MediaTypeImageManifest

// push puts an artifact into a repository, and returns the digests of its blob and its manifest.
func (c *caller) push(repo, tag string) (blob, manifest digest.Digest) {
	c.t.Helper()
	config, layer := c.blob(repo, []byte("{}")), c.blob(repo, []byte(rand.Text()))
	m := artifact(config, layer, nil)
	c.want(201, "", "PUT", "/v2/"+repo+"/manifests/"+tag, m, "Content-Type", manifestType)
	return layer.Digest, digest.FromBytes(m)
}

// users writes a file of users, whose passwords begin with "secret of".
func users(t testing.TB, names ...string) string {
	var b strings.Builder
	for _, name := range names {
		hash, err := bcrypt.GenerateFromPassword([]byte("secret of "+name), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s:%s\n", name, hash)
	}
	return file(t, b.String())
}

// TestRights has users with different rights to different repositories, and looks for
// ways from one to the other.
func TestRights(t *testing.T) {
	rights := file(t, `
# who  what                 may
anyone localhost/public/*   pull
ann    localhost/ann/*      pull,push,delete
bob    localhost/bob/*      pull,push
ann    localhost/public/*   pull,push
root   *                    pull,push,delete
`)
	s := serve(t, registry.Config{Users: users(t, "ann", "bob", "root"), Rights: rights})
	ann, bob, root, nobody := s.as(t, "ann"), s.as(t, "bob"), s.as(t, "root"), s.as(t, "")
	blob, manifest := ann.push("ann/secret", "1")
	public, _ := ann.push("public/app", "1")

	t.Run("Own", func(t *testing.T) {
		ann.want(200, "", "GET", "/v2/ann/secret/manifests/1", nil)
		ann.want(200, "", "GET", "/v2/ann/secret/blobs/"+blob.String(), nil)
		root.want(200, "", "GET", "/v2/ann/secret/manifests/1", nil)
		nobody.want(200, "", "GET", "/v2/public/app/blobs/"+public.String(), nil)
		nobody.want(200, "", "HEAD", "/v2/public/app/manifests/1", nil)
	})
	t.Run("NotOwn", func(t *testing.T) {
		bob.want(403, "DENIED", "GET", "/v2/ann/secret/manifests/1", nil)
		bob.want(403, "DENIED", "GET", "/v2/ann/secret/tags/list", nil)
		bob.want(403, "DENIED", "GET", "/v2/ann/none/manifests/1", nil) // as if it were there
		bob.want(403, "DENIED", "PUT", "/v2/public/app/manifests/1", nil)
		bob.want(403, "DENIED", "GET", "/v2/ann/secret/blobs/uploads/abcdefghijklmnopqrstuvwxyz", nil)
		nobody.want(401, "UNAUTHORIZED", "GET", "/v2/ann/secret/manifests/1", nil)
		nobody.want(401, "UNAUTHORIZED", "POST", "/v2/public/app/blobs/uploads/", nil)
		ann.want(403, "DENIED", "DELETE", "/v2/public/app/manifests/1", nil)
		bob.push("bob/app", "1")
		bob.want(403, "DENIED", "DELETE", "/v2/bob/app/manifests/1", nil)
	})
	// Who knows the digest of a blob does not have the blob.
	t.Run("Digest", func(t *testing.T) {
		bob.want(404, "BLOB_UNKNOWN", "GET", "/v2/bob/app/blobs/"+blob.String(), nil)
		bob.want(404, "BLOB_UNKNOWN", "GET", "/v2/public/app/blobs/"+blob.String(), nil)
		bob.want(404, "MANIFEST_UNKNOWN", "GET", "/v2/bob/app/manifests/"+manifest.String(), nil)
		for _, from := range []string{"&from=ann/secret", "", "&from=../ann/secret", "&from=bob/app"} {
			if resp := bob.want(202, "", "POST", "/v2/bob/app/blobs/uploads/?mount="+blob.String()+from, nil); resp.Header.Get("Location") == "" {
				t.Errorf("mount %q: no upload begins", from)
			}
		}
		config := bob.blob("bob/app", []byte("{}"))
		stolen := artifact(config, ocispec.Descriptor{MediaType: "a/b", Digest: blob, Size: 26}, nil)
		bob.want(404, "MANIFEST_BLOB_UNKNOWN", "PUT", "/v2/bob/app/manifests/2", stolen, "Content-Type", manifestType)
		index := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":9}]}`, ocispec.MediaTypeImageIndex, manifestType, manifest)
		bob.want(404, "MANIFEST_BLOB_UNKNOWN", "PUT", "/v2/bob/app/manifests/2", index, "Content-Type", ocispec.MediaTypeImageIndex)
		// Nor is a manifest read through a subject.
		subject := artifact(config, config, &ocispec.Descriptor{MediaType: manifestType, Digest: manifest, Size: 9})
		bob.want(201, "", "PUT", "/v2/bob/app/manifests/3", subject, "Content-Type", manifestType)
		bob.want(404, "MANIFEST_UNKNOWN", "GET", "/v2/bob/app/manifests/"+manifest.String(), nil)
	})
	t.Run("Mount", func(t *testing.T) {
		bob.want(201, "", "POST", "/v2/bob/app/blobs/uploads/?mount="+public.String()+"&from=public/app", nil)
		bob.want(200, "", "GET", "/v2/bob/app/blobs/"+public.String(), nil)
		root.want(201, "", "POST", "/v2/root/app/blobs/uploads/?mount="+blob.String(), nil)
	})
	t.Run("Catalog", func(t *testing.T) {
		for who, want := range map[*caller]string{bob: `["bob/app","public/app"]`, nobody: `["public/app"]`, ann: `["ann/secret","public/app"]`} {
			if _, text := who.do("GET", "/v2/_catalog", nil); !strings.Contains(text, want) {
				t.Errorf("%q sees %s, want %s", who.user, text, want)
			}
		}
	})
	t.Run("Changed", func(t *testing.T) {
		if err := os.WriteFile(rights, []byte("bob localhost/ann/* pull\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		bob.want(200, "", "GET", "/v2/ann/secret/blobs/"+blob.String(), nil)
		ann.want(403, "DENIED", "GET", "/v2/ann/secret/blobs/"+blob.String(), nil)
		if err := os.WriteFile(rights, []byte("not a rule\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		bob.want(200, "", "GET", "/v2/ann/secret/blobs/"+blob.String(), nil) // as before
	})
}

// flip changes one digit of a token.
func flip(token string, at int) string {
	b := []byte(token)
	b[at] ^= 1
	return string(b)
}

// TestTokens logs in as docker does: a challenge, a token, and the token for the rest.
func TestTokens(t *testing.T) {
	s := serve(t, registry.Config{Users: users(t, "ann"), Rights: file(t, "anyone localhost/public/* pull\nann localhost/* pull,push\n")})
	ann, nobody := s.as(t, "ann"), s.as(t, "")
	ann.push("public/app", "1")
	ann.push("secret", "1")
	resp := nobody.want(401, "UNAUTHORIZED", "GET", "/v2/", nil)
	want := `Bearer realm="http://` + s.addr + `/token",service="berth"`
	if got := resp.Header.Get("WWW-Authenticate"); got != want {
		t.Errorf("challenge %s, want %s", got, want)
	}
	bearer := func(c *caller) string {
		var reply struct{ Token string }
		if _, text := c.do("GET", "/token?service=berth&scope=repository:secret:pull,push", nil); json.Unmarshal([]byte(text), &reply) != nil {
			t.Fatal(text)
		}
		return "Bearer " + reply.Token
	}
	forAnn, forNobody := bearer(ann), bearer(nobody)
	nobody.want(200, "", "GET", "/v2/", nil, "Authorization", forNobody)
	nobody.want(200, "", "GET", "/v2/public/app/manifests/1", nil, "Authorization", forNobody)
	nobody.want(401, "UNAUTHORIZED", "GET", "/v2/secret/manifests/1", nil, "Authorization", forNobody)
	nobody.want(200, "", "GET", "/v2/secret/manifests/1", nil, "Authorization", forAnn)
	for _, forged := range []string{"", "x", forAnn[:len(forAnn)-2], forAnn + "AA", flip(forAnn, 20), flip(forAnn, 60)} {
		nobody.want(401, "UNAUTHORIZED", "GET", "/v2/secret/manifests/1", nil, "Authorization", "Bearer "+strings.TrimPrefix(forged, "Bearer "))
	}
	for _, wrong := range []*caller{{user: "ann", password: "guess"}, {user: "eve", password: "secret of eve"}, {user: "anyone"}, {user: "*"}} {
		wrong.t, wrong.base, wrong.client = t, ann.base, ann.client
		wrong.want(401, "UNAUTHORIZED", "GET", "/v2/public/app/manifests/1", nil)
		wrong.want(401, "UNAUTHORIZED", "GET", "/token", nil)
	}
}

// TestConfiguration refuses what would serve nobody, or everybody.
func TestConfiguration(t *testing.T) {
	s := open(t)
	for name, c := range map[string]struct {
		config registry.Config
		want   string
	}{
		"in the clear":   {registry.Config{Listen: "0.0.0.0:5000", Users: users(t, "a")}, "in the clear"},
		"name in clear":  {registry.Config{Listen: "example.org:5000", Users: users(t, "a")}, "in the clear"},
		"no users":       {registry.Config{Listen: "127.0.0.1:5000"}, "nobody could use it"},
		"half a pair":    {registry.Config{Listen: "127.0.0.1:5000", Cert: "/dev/null", Users: users(t, "a")}, "belong together"},
		"no certificate": {registry.Config{Listen: "127.0.0.1:5000", Cert: "/dev/null", Key: "/dev/null", Users: users(t, "a")}, "/dev/null"},
		"no address":     {registry.Config{Listen: "5000", Users: users(t, "a")}, "write it as in"},
		"bad name":       {registry.Config{Listen: "127.0.0.1:5000", Name: "../x", Users: users(t, "a")}, "no name of a repository"},
		"missing users":  {registry.Config{Listen: "127.0.0.1:5000", Users: "/nonexistent"}, "/nonexistent"},
		"plain password": {registry.Config{Listen: "127.0.0.1:5000", Users: file(t, "ann:secret\n")}, "htpasswd -B"},
		"a user anyone":  {registry.Config{Listen: "127.0.0.1:5000", Users: file(t, "anyone:$2a$10$7EqJtq98hPqEX7fNZaFWoOhi5ca5x5S0H4NQ0VHf3Ww6LZtTpFMKm\n")}, "file:1"},
		"short rule":     {registry.Config{Listen: "127.0.0.1:5000", Rights: file(t, "\nann localhost/*\n")}, "file:2"},
		"odd right":      {registry.Config{Listen: "127.0.0.1:5000", Rights: file(t, "ann localhost/* read\n")}, `"read"`},
		"odd pattern":    {registry.Config{Listen: "127.0.0.1:5000", Rights: file(t, "ann */app pull\n")}, "at its end"},
	} {
		t.Run(name, func(t *testing.T) {
			c.config.Log = nil
			_, err := registry.New(s.content, c.config)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") || !api.IsKind(err, api.Invalid) {
				t.Errorf("%v, want one line with %q", err, c.want)
			}
		})
	}
}

// TestShare serves what was pulled here to other hosts, to whoever has the right to it.
func TestShare(t *testing.T) {
	s := serve(t, registry.Config{Users: users(t, "host", "ann"), Rights: file(t, "host docker.io/* pull\nann localhost/* pull,push,delete\n")})
	host, ann := s.as(t, "host"), s.as(t, "ann")
	ann.push("library/base", "latest")
	if err := s.store.Tag(t.Context(), "localhost/library/base", "base"); err != nil {
		t.Fatal(err)
	}
	host.want(200, "", "GET", "/v2/library/base/manifests/latest?ns=docker.io", nil)
	host.want(404, "MANIFEST_UNKNOWN", "GET", "/v2/library/base/manifests/other?ns=docker.io", nil)
	host.want(403, "DENIED", "GET", "/v2/library/base/manifests/latest", nil)
	host.want(403, "DENIED", "GET", "/v2/library/base/manifests/latest?ns=localhost", nil)
	host.want(403, "DENIED", "DELETE", "/v2/library/base/manifests/latest?ns=docker.io", nil)
	ann.want(403, "DENIED", "PUT", "/v2/library/base/manifests/latest?ns=docker.io", nil)
	ann.want(403, "DENIED", "GET", "/v2/library/base/manifests/latest?ns=docker.io", nil)
	for _, ns := range []string{"..", "docker.io/../localhost", "a%2f..", "%00", "docker.io:x"} {
		host.want(400, "NAME_INVALID", "GET", "/v2/library/base/manifests/latest?ns="+ns, nil)
	}
}
