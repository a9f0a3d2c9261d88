package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxManifest bounds a manifest, in bytes, as registries do.
const maxManifest = 4 << 20

// allower returns nil if an image may come from its registry, as Daemon.Allow does.
type allower func(ctx context.Context, name string, target digest.Digest) error

// obeying has all that comes from registries obey the daemon's policy, whatever in
// BuildKit asks for it: a manifest passes if the policy lets an image of its name and
// digest pass, or if an index that passed lists it.
func obeying(allow allower, hosts docker.RegistryHosts) docker.RegistryHosts {
	passed := &digests{}
	return func(registry string) ([]docker.RegistryHost, error) {
		list, err := hosts(registry)
		for i, h := range list {
			client := http.Client{}
			if h.Client != nil {
				client = *h.Client
			}
			client.Transport = &obedient{next: client.Transport, registry: registry, path: h.Path, allow: allow, passed: passed}
			list[i].Client = &client
		}
		return list, err
	}
}

// digests is a set of manifests that may be had, by repository and digest.
type digests struct{ set sync.Map }

func (d *digests) add(repository string, of digest.Digest) {
	d.set.Store(repository+"@"+of.String(), true)
}
func (d *digests) has(repository string, of digest.Digest) bool {
	_, ok := d.set.Load(repository + "@" + of.String())
	return ok
}

// obedient is a transport to one registry.
type obedient struct {
	next     http.RoundTripper // nil: http.DefaultTransport
	registry string            // as names of images have it
	path     string            // before the repository, as in /v2
	allow    allower
	passed   *digests
}

// RoundTrip implements http.RoundTripper. What a name leads to is asked for by HEAD, and
// may be here already, so that nothing else is asked for.
func (o *obedient) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := o.transport().RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusOK || req.Method != http.MethodGet && req.Method != http.MethodHead {
		return resp, err
	}
	name, reference, ok := o.manifest(req.URL.Path)
	if !ok {
		return resp, nil
	}
	announced := digest.Digest(resp.Header.Get("Docker-Content-Digest"))
	body, err := o.content(req, resp)
	if err == nil && announced.Validate() == nil && announced.Algorithm().FromBytes(body) != announced {
		err = fmt.Errorf("%s: the registry sent another manifest than it announced; try again", req.URL)
	}
	if err == nil {
		err = o.pass(req.Context(), name, reference, body)
	}
	if err != nil {
		return nil, err
	}
	if req.Method == http.MethodGet {
		resp.Body = io.NopCloser(bytes.NewReader(body))
	}
	return resp, nil
}

func (o *obedient) transport() http.RoundTripper {
	if o.next == nil {
		return http.DefaultTransport
	}
	return o.next
}

// content reads the manifest that a response is of; that of a HEAD it asks for.
func (o *obedient) content(req *http.Request, resp *http.Response) ([]byte, error) {
	if req.Method == http.MethodHead {
		if err := resp.Body.Close(); err != nil {
			return nil, err
		}
		get := req.Clone(req.Context())
		get.Method = http.MethodGet
		whole, err := o.transport().RoundTrip(get)
		if err != nil {
			return nil, err
		}
		if resp = whole; resp.StatusCode != http.StatusOK {
			return nil, errors.Join(fmt.Errorf("%s: %s", req.URL, resp.Status), resp.Body.Close())
		}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return nil, err
	}
	if len(body) > maxManifest {
		return nil, fmt.Errorf("the manifest at %s has more than %d bytes", req.URL, maxManifest)
	}
	return body, nil
}

// manifest returns which image's manifest a path is of: its repository, and a tag or
// digest.
func (o *obedient) manifest(path string) (name, reference string, ok bool) {
	path, ok = strings.CutPrefix(path, o.path+"/")
	if !ok {
		return "", "", false
	}
	name, reference, ok = strings.Cut(path, "/manifests/")
	return o.registry + "/" + name, reference, ok
}

// pass asks the daemon, unless an index that passed lists the manifest, and remembers
// what an index lists.
func (o *obedient) pass(ctx context.Context, name, reference string, body []byte) error {
	sum := digest.FromBytes(body)
	full := name + ":" + reference
	if by, err := digest.Parse(reference); err == nil {
		sum, full = by.Algorithm().FromBytes(body), name+"@"+reference
	}
	if !o.passed.has(name, sum) {
		if err := o.allow(ctx, full, sum); err != nil {
			return err
		}
		o.passed.add(name, sum)
	}
	var index ocispec.Index
	if json.Unmarshal(body, &index) == nil && images.IsIndexType(index.MediaType) {
		for _, m := range index.Manifests {
			o.passed.add(name, m.Digest)
		}
	}
	return nil
}
