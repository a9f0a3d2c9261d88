package registry_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/testenv"
)

// TestHostilePaths sends names, references and uploads that lead elsewhere.
func TestHostilePaths(t *testing.T) {
	s := open(t)
	c := s.as(t, "")
	c.push("app", "1")
	sha := "sha256:" + strings.Repeat("0", 64)
	for _, path := range []string{
		"/v2/../v2/app/manifests/1", "/v2/app/../app/manifests/1", "/v2/app/manifests/..", "/v2/app/manifests/%2e%2e",
		"/v2/app%2f..%2fapp/manifests/1", "/v2//manifests/1", "/v2/app//x/manifests/1", "/v2/App/manifests/1", "/v2/app/manifests/-x",
		"/v2/app/manifests/" + strings.Repeat("a", 129), "/v2/" + strings.Repeat("a", 300) + "/manifests/1", "/v2/app/manifests/sha256:",
		"/v2/app/manifests/sha256:../../../../etc/passwd", "/v2/app/blobs/sha256:%2e%2e%2fmeta.db", "/v2/app/blobs/md5:d41d8cd98f00b204e9800998ecf8427e",
		"/v2/app/blobs/" + strings.ToUpper(sha), "/v2/app/blobs/" + sha + "0", "/v2/app/blobs/sha512:" + strings.Repeat("0", 64),
		"/v2/app/blobs/uploads/../../../x", "/v2/app/blobs/uploads/%2e%2e%2f%2e%2e", "/v2/app/blobs/uploads/" + strings.Repeat("a", 26),
		"/v2/app/referrers/1", "/v2/app/tags", "/v2/app", "/", "/v1/", "/v2/app/manifests/1/", "/v2/app/manifests/a%00b", "/v2/app%0a/manifests/1",
	} {
		// A client of net/http would clean the path.
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(path, err)
		}
		if resp.StatusCode != 400 && resp.StatusCode != 404 {
			t.Errorf("GET %s: %s", path, resp.Status)
		}
		resp.Body.Close()
		conn.Close()
	}
}

// TestHostilePush sends what is not what it says.
func TestHostilePush(t *testing.T) {
	s := open(t)
	c := s.as(t, "")
	config := c.blob("app", []byte("{}"))
	good := artifact(config, config, nil)
	put := func(status int, code, ref, mediaType string, body []byte) {
		t.Helper()
		c.want(status, code, "PUT", "/v2/app/manifests/"+ref, body, "Content-Type", mediaType)
	}
	put(400, "MANIFEST_INVALID", "1", "", good)
	put(400, "MANIFEST_INVALID", "1", "text/html", good)
	put(400, "MANIFEST_INVALID", "1", ocispec.MediaTypeImageIndex, good)
	put(400, "MANIFEST_INVALID", "1", manifestType, []byte("{"))
	put(400, "MANIFEST_INVALID", "1", manifestType, []byte(`{"schemaVersion":1}`))
	put(400, "MANIFEST_INVALID", "1", manifestType, []byte(`{"schemaVersion":2}`))
	put(400, "MANIFEST_INVALID", "1", manifestType, bytes.Replace(good, []byte(`"layers"`), []byte(`"manifests":[],"layers"`), 1))
	put(400, "MANIFEST_INVALID", "1", manifestType, bytes.Replace(good, []byte(`"size":2`), []byte(`"size":3`), 1))
	put(400, "MANIFEST_INVALID", "1", manifestType, bytes.Replace(good, []byte(`"size":2`), []byte(`"size":-2`), 1))
	put(400, "MANIFEST_INVALID", "1", manifestType, bytes.Replace(good, []byte("sha256:"), []byte("sha256:../"), 1))
	many := slices.Repeat([]ocispec.Descriptor{config}, 1001)
	manyLayers, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": manifestType, "config": config, "layers": many})
	if err != nil {
		t.Fatal(err)
	}
	put(400, "MANIFEST_INVALID", "1", manifestType, manyLayers)
	put(400, "MANIFEST_INVALID", digest.FromString("other").String(), manifestType, good)
	put(404, "MANIFEST_UNKNOWN", "a+b", manifestType, good)
	put(413, "SIZE_INVALID", "1", manifestType, append(good, bytes.Repeat([]byte(" "), image.MaxManifest)...))
	put(201, "", "1", manifestType, append(slices.Clone(good), bytes.Repeat([]byte(" "), image.MaxManifest-len(good))...))
	if tags, err := s.content.Tags(t.Context(), "localhost/app"); err != nil || !slices.Equal(tags, []string{"1"}) {
		t.Errorf("tags %v, %v", tags, err)
	}

	d := digest.FromString("hello").String()
	c.want(400, "DIGEST_INVALID", "POST", "/v2/app/blobs/uploads/?digest="+d, []byte("hello!"))
	c.want(400, "DIGEST_INVALID", "POST", "/v2/app/blobs/uploads/?digest=x", nil)
	c.want(400, "DIGEST_INVALID", "POST", "/v2/app/blobs/uploads/?digest-algorithm=md5", nil)
	c.want(400, "DIGEST_INVALID", "POST", "/v2/app/blobs/uploads/?mount=x&from=app", nil)
	c.want(404, "BLOB_UNKNOWN", "GET", "/v2/app/blobs/"+d, nil)
	at := c.want(202, "", "POST", "/v2/app/blobs/uploads/", nil).Header.Get("Location")
	for _, odd := range []string{"0-", "-4", "4-0", "0-99", "bytes 0-4/5", "0-18446744073709551616", "1-5", "0-4-5", "+0-4"} {
		c.want(416, "BLOB_UPLOAD_INVALID", "PATCH", at, []byte("hello"), "Content-Range", odd)
	}
	if got := c.want(202, "", "PATCH", at, []byte("hello"), "Content-Range", "0-4").Header.Get("Range"); got != "0-4" {
		t.Errorf("Range %s", got)
	}
	c.want(404, "BLOB_UPLOAD_UNKNOWN", "PATCH", strings.Replace(at, "/app/", "/other/", 1), []byte("x"))
	c.want(400, "DIGEST_INVALID", "PUT", at, nil)
	c.want(201, "", "PUT", at+"?digest="+d, nil)
	c.want(404, "BLOB_UPLOAD_UNKNOWN", "PUT", at+"?digest="+d, nil)
	c.want(405, "UNSUPPORTED", "DELETE", "/v2/app/blobs/uploads/", nil)
	c.want(405, "UNSUPPORTED", "POST", "/v2/app/manifests/1", nil)
}

// TestBrokenUpload loses its connection in the middle, and goes on from there.
func TestBrokenUpload(t *testing.T) {
	s := open(t)
	c := s.as(t, "")
	at := c.want(202, "", "POST", "/v2/app/blobs/uploads/", nil).Header.Get("Location")
	content := bytes.Repeat([]byte("0123456789"), 10_000)
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "PATCH %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", at, len(content), content[:60_000])
	conn.Close()
	testenv.Eventually(t, 10*time.Second, func() error {
		if got := c.want(204, "", "GET", at, nil).Header.Get("Range"); got != "0-59999" {
			return fmt.Errorf("Range %s", got)
		}
		return nil
	})
	c.want(416, "", "PATCH", at, content, "Content-Range", fmt.Sprintf("0-%d", len(content)-1))
	c.want(202, "", "PATCH", at, content[60_000:], "Content-Range", fmt.Sprintf("60000-%d", len(content)-1))
	d := digest.FromBytes(content)
	c.want(201, "", "PUT", at+"?digest="+d.String(), nil)
	if _, text := c.do("GET", "/v2/app/blobs/"+d.String(), nil, "Range", "bytes=59990-60009"); text != "01234567890123456789" {
		t.Errorf("got %q", text)
	}
}

// TestManyUploads opens more uploads than there may be, and cancels one.
func TestManyUploads(t *testing.T) {
	if testing.Short() {
		t.Skip("writes down hundreds of uploads")
	}
	c := open(t).as(t, "")
	var last string
	for range 256 {
		last = c.want(202, "", "POST", "/v2/app/blobs/uploads/", nil).Header.Get("Location")
	}
	c.want(429, "TOOMANYREQUESTS", "POST", "/v2/app/blobs/uploads/", nil)
	c.want(204, "", "DELETE", last, nil)
	c.want(404, "BLOB_UPLOAD_UNKNOWN", "GET", last, nil)
	c.want(202, "", "POST", "/v2/app/blobs/uploads/", nil)
}
