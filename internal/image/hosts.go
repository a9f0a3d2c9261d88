package image

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"

	"github.com/berthcloud/berth/api"
)

// endpoint is a host that a registry's images are got from: a mirror, or its own.
type endpoint struct {
	docker.RegistryHost
	tls   *tls.Config // nil for the default
	plain bool        // http, because a file says so
}

// Hosts returns the hosts of a registry as endpoints does, for those who fetch by other
// ways than Pull.
//
// Errors: Invalid, naming the file.
func Hosts(ctx context.Context, root, registry string) ([]docker.RegistryHost, error) {
	found, err := endpoints(ctx, root, registry)
	var hosts []docker.RegistryHost
	for _, e := range found {
		hosts = append(hosts, e.RegistryHost)
	}
	return hosts, err
}

// endpoints returns the hosts of a registry in the order in which they are asked, as the
// file HOST/hosts.toml in root, a directory, has them, in containerd's form; nil where
// there is no such file. The last is the registry's own.
func endpoints(ctx context.Context, root, registry string) ([]endpoint, error) {
	if root == "" {
		return nil, nil
	}
	dir, err := config.HostDirFromRoot(root)(registry)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	file := filepath.Join(dir, "hosts.toml")
	fail := func(err error) ([]endpoint, error) {
		return nil, api.E("", api.Invalid, file, fmt.Errorf("cannot be used: %w; its form is that of containerd's hosts.toml", err))
	}
	if err != nil {
		return fail(err)
	}
	// The library logs what it cannot read, and goes on without: then images would come
	// from elsewhere than was meant.
	var doc struct {
		Host map[string]any `toml:"host"`
	}
	b, err := os.ReadFile(file)
	if err == nil {
		err = toml.Unmarshal(b, &doc)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fail(err)
	}
	hosts, err := config.ConfigureHosts(ctx, config.HostOptions{
		HostDir:       func(string) (string, error) { return dir, nil },
		DefaultScheme: "https", // else it would trust every certificate on this host
	})(registry)
	if err != nil {
		return fail(err)
	}
	if len(hosts) != len(doc.Host)+1 {
		return fail(errors.New("a capability, a URL or a certificate in it is none"))
	}
	found := make([]endpoint, len(hosts))
	for i, h := range hosts {
		t, ok := h.Client.Transport.(*http.Transport)
		if !ok { // the library would try both ways
			return fail(fmt.Errorf("http://%s has certificates; write https://", h.Host))
		}
		found[i] = endpoint{RegistryHost: h, tls: t.TLSClientConfig, plain: h.Scheme == "http"}
	}
	return found, nil
}
