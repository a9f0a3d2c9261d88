package registry_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/registry"
)

// TestQuota fills a repository: what it has no room for is refused in one line that says
// so, in each way in which it may come, and there is room again for as much as is deleted.
func TestQuota(t *testing.T) {
	s := serve(t, registry.Config{Rights: file(t, "anyone localhost/* pull,push,delete\n"), Quota: 1 << 20})
	c := s.as(t, "")
	full := func(method, path string, body []byte, headers ...string) {
		t.Helper()
		resp, said := c.do(method, path, body, headers...)
		for _, want := range []string{`"DENIED"`, "localhost/app", "the repository is full", "1MiB", "--registry-quota"} {
			if resp.StatusCode != 403 || !strings.Contains(said, want) {
				t.Errorf("%s %s: %s %s", method, path, resp.Status, said)
			}
		}
	}
	post := func(repo string, body []byte) string {
		return "/v2/" + repo + "/blobs/uploads/?digest=" + digest.FromBytes(body).String()
	}
	a, b := bytes.Repeat([]byte("a"), 600<<10), bytes.Repeat([]byte("b"), 600<<10)
	config, blob := c.blob("app", []byte("{}")), c.blob("app", a)
	full("POST", post("app", b), b)
	c.blob("other", b)                                                                                       // has room of its own
	c.want(202, "", "POST", "/v2/app/blobs/uploads/?mount="+digest.FromBytes(b).String()+"&from=other", nil) // not mounted: to be sent
	resp, _ := c.do("POST", "/v2/app/blobs/uploads/", nil)
	to := resp.Header.Get("Location")
	full("PATCH", to, b)
	c.want(404, "BLOB_UPLOAD_UNKNOWN", "GET", to, nil) // which has ended
	m := artifact(config, blob, nil)
	long := append(bytes.Clone(m), bytes.Repeat([]byte(" "), 500<<10)...)
	full("PUT", "/v2/app/manifests/1", long, "Content-Type", manifestType)
	c.want(201, "", "PUT", "/v2/app/manifests/1", m, "Content-Type", manifestType)
	full("POST", post("app", b), b)

	from := largeImage(t, s.addr+"/app:2", 1<<20)
	_, err := from.Push(t.Context(), s.addr+"/app:2", image.PushOptions{})
	if !api.IsKind(err, api.Denied) || !strings.Contains(err.Error(), "the repository is full") || strings.Contains(err.Error(), "\n") {
		t.Errorf("%s: %v", api.KindOf(err), err)
	}

	c.want(202, "", "DELETE", "/v2/app/manifests/"+digest.FromBytes(m).String(), nil)
	c.want(202, "", "DELETE", "/v2/app/blobs/"+blob.Digest.String(), nil)
	c.blob("app", b)
}
