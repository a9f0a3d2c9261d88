package image

import (
	"strings"
	"testing"

	"github.com/containerd/platforms"
	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/api"
)

// FuzzDocuments feeds arbitrary bytes to the readers of what strangers write:
// no panic, and whatever is accepted keeps the bounds.
func FuzzDocuments(f *testing.F) {
	f.Add([]byte(`{"os":"linux","config":{"User":"0:0","Volumes":{"/v":{}},"Env":["A=b"]},"rootfs":{"type":"layers","diff_ids":[]}}`))
	f.Add([]byte(`{"schemaVersion":2,"config":{"digest":"sha256:x"},"layers":[{"size":-1}]}`))
	f.Add([]byte(`{"manifests":[{"digest":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","platform":{"os":"linux","architecture":"amd64"}}]}`))
	f.Add([]byte(`{"architecture":"amd64","firmware":"bios","format":"raw","virtual_size":1048576,"config":{"Cmd":["sh"]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		const size = 1 << 20
		if c, err := parseDiskConfig(b, []ocispec.Descriptor{{MediaType: diskRawType, Size: size}}); err == nil && (c.VirtualSize != size || !architectures[c.Architecture]) {
			t.Errorf("a disk of %d bytes for %q", c.VirtualSize, c.Architecture)
		}
		if doc, err := parseConfig(b); err == nil {
			c := doc.api()
			for _, v := range c.Volumes {
				if !strings.HasPrefix(v, "/") || strings.Contains(v+"/", "/../") {
					t.Errorf("volume %q", v)
				}
			}
			doc.platform()
		} else if strings.ContainsAny(err.Error(), "\n\r") {
			t.Errorf("not one line: %q", err)
		}
		_, _ = parseManifest(b)
		if index, err := parseIndex(b); err == nil {
			_, _ = choose(index, platforms.Default(), platforms.DefaultString())
		}
		_, _ = layoutImages([]byte(`{"imageLayoutVersion":"1.0.0"}`), b)
	})
}

func FuzzName(f *testing.F) {
	for _, s := range []string{"debian:12", "base", "host:5000/a/b@sha256:" + strings.Repeat("a", 64), "../x", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		full, err := fullName(name)
		if err != nil {
			return
		}
		again, err := fullName(Familiar(full))
		if err != nil || again != full {
			t.Errorf("%q is %q, and that is %q, %v", name, full, again, err)
		}
	})
}

func TestNames(t *testing.T) {
	for in, want := range map[string]string{
		"debian": "docker.io/library/debian:latest", "debian:12": "docker.io/library/debian:12", "me/app": "docker.io/me/app:latest",
		"localhost/app": "localhost/app:latest", "h:5/a:1": "h:5/a:1", " base ": "docker.io/library/base:latest", "index.docker.io/x": "docker.io/library/x:latest",
	} {
		if got, err := fullName(in); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
	for _, bad := range []string{"", "UPPER", "a b", "a::b", "-x", "../a", strings.Repeat("a", 5000)} {
		if got, err := fullName(bad); !api.IsKind(err, api.Invalid) {
			t.Errorf("%q: %q, %v", bad, got, err)
		}
	}
}

func TestRelated(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"registry-1.docker.io", "auth.docker.io", true}, {"registry.gitlab.com", "gitlab.com", true}, {"h:5000", "h:5001", true},
		{"a.example.com", "a.example.org", false}, {"a.co.uk", "b.co.uk", false}, {"127.0.0.1:1", "127.0.0.2:1", false}, {"localhost", "127.0.0.1", false},
	} {
		if got := related(c.a, c.b); got != c.want {
			t.Errorf("%s and %s: %v", c.a, c.b, got)
		}
	}
}

func TestProxyOptions(t *testing.T) {
	dump := "Acquire \"\";\nAcquire::http::Proxy \"http://p:1\";\nAcquire::https::Proxy \"\";\nAcquire::Retries \"3\";\nAPT::Foo \"x\";\n"
	want := []string{`Acquire::http::Proxy "http://p:1"`, `Acquire::Retries "3"`}
	if d := cmp.Diff(want, proxyOptions(dump)); d != "" {
		t.Error(d)
	}
}

func TestSuites(t *testing.T) {
	for name, want := range map[string]string{
		"debian:12": "bookworm", "debian": "trixie", "debian:trixie": "trixie", "debian:13-slim": "trixie",
		"debian-init": "trixie systemd-sysv", "debian-sysvinit:12": "bookworm sysvinit-core",
	} {
		got, packages, err := suiteOf(name)
		if n := len(packages); n > 0 {
			got += " " + packages[n-1]
		}
		if err != nil || got != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for name, kind := range map[string]api.ErrorKind{"ubuntu:24.04": api.Unsupported, "debian:99": api.Invalid, "debian:$(x)": api.Invalid} {
		if _, _, err := suiteOf(name); !api.IsKind(err, kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
