package registry_test

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	ggcrname "github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/registry"
	"github.com/berthcloud/berth/internal/testenv"
)

// TestSite has one host pull from another what that one has pulled from the origin, which
// is not there any more. The hosts of the site log in to each other.
func TestSite(t *testing.T) {
	origin := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	defer origin.Close()
	host := strings.TrimPrefix(origin.URL, "http://")
	ref, err := ggcrname.ParseReference(host + "/team/app:1")
	if err != nil {
		t.Fatal(err)
	}
	img := empty.Image
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg.OS, cfg.Architecture = "linux", runtime.GOARCH
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}

	first := serve(t, registry.Config{Users: users(t, "site"), Rights: file(t, fmt.Sprintf("site %s/* pull\n", host))})
	if _, err := first.store.Pull(t.Context(), ref.Name(), image.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	origin.Close()

	hosts, config := testenv.Dir(t), testenv.Dir(t)
	text := fmt.Sprintf("[host.%q]\ncapabilities = [\"pull\", \"resolve\"]\n", "http://"+first.addr)
	login, err := json.Marshal(map[string]any{"auths": map[string]any{first.addr: map[string]string{"username": "site", "password": "secret of site"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.Mkdir(filepath.Join(hosts, host), 0o755), os.WriteFile(filepath.Join(hosts, host, "hosts.toml"), []byte(text), 0o644),
		os.WriteFile(filepath.Join(config, "config.json"), login, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	second, err := image.Open(testenv.Dir(t), image.Options{Hosts: hosts, DockerConfig: config})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if _, err := second.Pull(t.Context(), ref.Name(), image.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	want, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := second.Resolve(t.Context(), ref.Name()); err != nil || got.Digest != want.String() {
		t.Errorf("%+v, %v", got, err)
	}

	stranger, err := image.Open(testenv.Dir(t), image.Options{Hosts: hosts, DockerConfig: testenv.Dir(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if _, err := stranger.Pull(t.Context(), ref.Name(), image.PullOptions{}); err == nil || api.KindOf(err) != api.Unavailable && api.KindOf(err) != api.Denied {
		t.Errorf("who has not logged in: %v", err)
	}
}
