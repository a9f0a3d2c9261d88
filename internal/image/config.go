package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/api"
)

// document is an image's config as it is stored: the OCI image-spec's with
// docker's extensions (image/spec/spec.md in moby), of which an image made by
// docker may have any.
type document struct {
	Architecture string            `json:"architecture"`
	OS           string            `json:"os"`
	Variant      string            `json:"variant"`
	Created      *time.Time        `json:"created"`
	History      []ocispec.History `json:"history"`
	Config       struct {
		User         string
		ExposedPorts map[string]struct{}
		Env          []string
		Entrypoint   []string
		Cmd          []string
		Volumes      map[string]struct{}
		WorkingDir   string
		Labels       map[string]string
		StopSignal   string
		Healthcheck  *struct {
			Test        []string
			Interval    time.Duration
			Timeout     time.Duration
			StartPeriod time.Duration
			Retries     int
		}
	} `json:"config"`
	RootFS struct {
		Type    string          `json:"type"`
		DiffIDs []digest.Digest `json:"diff_ids"`
	} `json:"rootfs"`
}

// Bounds of a config's fields. What the kernel cannot pass to execve(2) could
// not run anyway.
const (
	maxLayers  = 500       // overlayfs stacks no more: OVL_MAX_STACK
	maxStrings = 10_000    // in one list
	maxString  = 128 << 10 // bytes: MAX_ARG_STRLEN
)

// parseConfig reads an image's config and refuses what could harm a reader
// later: the text comes from strangers.
func parseConfig(b []byte) (*document, error) {
	var doc document
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, api.E("", api.Corrupt, "", fmt.Errorf("the image's config is not valid: %w", err))
	}
	if err := doc.check(); err != nil {
		return nil, api.E("", api.Invalid, "", fmt.Errorf("the image's config is refused: %w", err))
	}
	return &doc, nil
}

func (d *document) check() error {
	if d.RootFS.Type != "" && d.RootFS.Type != "layers" {
		return fmt.Errorf("root filesystem of type %.40q", d.RootFS.Type)
	}
	if len(d.RootFS.DiffIDs) > maxLayers {
		return fmt.Errorf("%d layers, more than %d", len(d.RootFS.DiffIDs), maxLayers)
	}
	for _, id := range d.RootFS.DiffIDs {
		if err := checkDigest(id); err != nil {
			return err
		}
	}
	c := &d.Config
	texts := []string{d.Architecture, d.OS, d.Variant, c.User, c.WorkingDir, c.StopSignal}
	lists := [][]string{c.Env, c.Entrypoint, c.Cmd, sortedKeys(c.ExposedPorts), sortedKeys(c.Volumes), sortedKeys(c.Labels)}
	if h := c.Healthcheck; h != nil {
		lists = append(lists, h.Test)
		if h.Interval < 0 || h.Timeout < 0 || h.StartPeriod < 0 || h.Retries < 0 {
			return errors.New("health check with a negative time")
		}
	}
	for _, list := range lists {
		if len(list) > maxStrings {
			return fmt.Errorf("a list of %d strings", len(list))
		}
		texts = append(texts, list...)
	}
	for _, text := range texts {
		if len(text) > maxString {
			return fmt.Errorf("a string of %d bytes", len(text))
		}
		if strings.IndexByte(text, 0) >= 0 {
			return fmt.Errorf("%.40q has a NUL byte", text)
		}
	}
	for path := range c.Volumes {
		// CVE-2022-23648: a volume at "/../../…" made the host copy its own files.
		if !strings.HasPrefix(path, "/") || slices.Contains(strings.Split(path, "/"), "..") {
			return fmt.Errorf("volume at %.80q", path)
		}
	}
	if c.WorkingDir != "" && !strings.HasPrefix(c.WorkingDir, "/") {
		return fmt.Errorf("working directory %.80q is not absolute", c.WorkingDir)
	}
	return checkUser(c.User)
}

// checkUser refuses numeric ids that do not fit: CVE-2024-40635 turned a large
// number into root.
func checkUser(user string) error {
	name, group, _ := strings.Cut(user, ":")
	for _, id := range []string{name, group} {
		if id == "" || strings.Trim(id, "0123456789+-") != "" {
			continue // a name, looked up in the image's passwd
		}
		if _, err := strconv.ParseUint(id, 10, 31); err != nil {
			return fmt.Errorf("user %.40q is out of range", user)
		}
	}
	return nil
}

// checkDigest lets only digests pass that are safe as file names and that this
// store checks.
func checkDigest(d digest.Digest) error {
	if d.Validate() != nil || d.Algorithm() != digest.SHA256 && d.Algorithm() != digest.SHA512 {
		return fmt.Errorf("%.80q is no SHA-256 digest, nor one of SHA-512", string(d))
	}
	return nil
}

// api returns the part of the config that decides how an instance runs.
func (d *document) api() api.ImageConfig {
	c := &d.Config
	out := api.ImageConfig{
		Entrypoint: c.Entrypoint, Command: c.Cmd, Env: c.Env, User: c.User,
		WorkingDir: c.WorkingDir, StopSignal: c.StopSignal, Labels: c.Labels,
		Volumes: sortedKeys(c.Volumes), Ports: sortedKeys(c.ExposedPorts),
	}
	if h := c.Healthcheck; h != nil && len(h.Test) > 0 {
		out.Health = &api.HealthCheck{
			Test: h.Test, Interval: api.Duration(h.Interval), Timeout: api.Duration(h.Timeout),
			StartPeriod: api.Duration(h.StartPeriod), Retries: h.Retries,
		}
	}
	return out
}

func (d *document) platform() string {
	parts := []string{d.OS, d.Architecture}
	if d.Variant != "" {
		parts = append(parts, d.Variant)
	}
	return strings.Join(parts, "/")
}

// arch is the architecture as GOARCH. A config without one is of an image that
// was made for whoever runs it.
func (d *document) arch() string {
	if d.Architecture == "" {
		return runtime.GOARCH
	}
	return platforms.Normalize(ocispec.Platform{OS: "linux", Architecture: d.Architecture, Variant: d.Variant}).Architecture
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// parseManifest reads a manifest of one image. It refuses a document that is
// both a manifest and an index: different readers would see different images
// (CVE-2021-41190).
func parseManifest(b []byte) (*ocispec.Manifest, error) {
	var both struct {
		ocispec.Manifest
		Manifests json.RawMessage `json:"manifests"`
		FSLayers  json.RawMessage `json:"fsLayers"`
	}
	fail := func(err error) (*ocispec.Manifest, error) {
		return nil, api.E("", api.Corrupt, "", fmt.Errorf("the image's manifest is not valid: %w", err))
	}
	if err := json.Unmarshal(b, &both); err != nil {
		return fail(err)
	}
	m := &both.Manifest
	switch {
	case both.Manifests != nil || both.FSLayers != nil:
		return fail(errors.New("it is of two kinds at once"))
	case m.SchemaVersion != 2:
		return fail(fmt.Errorf("schema version %d", m.SchemaVersion))
	case len(m.Layers) > maxLayers && !inChunks(m):
		return fail(fmt.Errorf("%d layers, more than %d", len(m.Layers), maxLayers))
	}
	for _, desc := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if err := checkDescriptor(desc); err != nil {
			return fail(err)
		}
	}
	return m, nil
}

// parseIndex reads an index of manifests.
func parseIndex(b []byte) (*ocispec.Index, error) {
	var both struct {
		ocispec.Index
		Config json.RawMessage `json:"config"`
		Layers json.RawMessage `json:"layers"`
	}
	fail := func(err error) (*ocispec.Index, error) {
		return nil, api.E("", api.Corrupt, "", fmt.Errorf("the image's index is not valid: %w", err))
	}
	if err := json.Unmarshal(b, &both); err != nil {
		return fail(err)
	}
	if both.Config != nil || both.Layers != nil {
		return fail(errors.New("it is of two kinds at once"))
	}
	if len(both.Index.Manifests) > 1000 {
		return fail(fmt.Errorf("%d manifests", len(both.Index.Manifests)))
	}
	for _, desc := range both.Index.Manifests {
		if err := checkDescriptor(desc); err != nil {
			return fail(err)
		}
	}
	return &both.Index, nil
}

func checkDescriptor(d ocispec.Descriptor) error {
	if err := checkDigest(d.Digest); err != nil {
		return err
	}
	if d.Size < 0 {
		return fmt.Errorf("%s has a size of %d bytes", d.Digest, d.Size)
	}
	return nil
}
