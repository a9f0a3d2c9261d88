package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/berthcloud/berth/api"
)

// apt downloads packages from where the host's apt gets its own, and installs
// nothing. Those of another architecture than the host's need lists that the host
// does not have: they are fetched into a directory that goes with the download, and
// the host's configuration stays as it is.
type apt struct {
	dir     string // existing; the caller removes it
	options []string
}

// newAPT prepares downloads into dir for an architecture, as GOARCH, which Debian
// calls the same; "" is the host's.
func newAPT(ctx context.Context, dir, arch string, progress Progress) (*apt, error) {
	// Not as user _apt, who may not enter dir.
	a := &apt{dir: dir, options: []string{"-o", "APT::Sandbox::User=root"}}
	if arch == "" || arch == runtime.GOARCH {
		return a, nil
	}
	for _, sub := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	for _, o := range []string{
		"APT::Architecture=" + arch, "APT::Architectures::=" + arch, "Acquire::Languages=none",
		"Dir::State::status=/dev/null", "Dir::State::lists=" + filepath.Join(dir, "lists"), "Dir::Cache=" + filepath.Join(dir, "cache"),
	} {
		a.options = append(a.options, "-o", o)
	}
	return a, a.get(ctx, progress, "update")
}

// get runs apt-get.
func (a *apt) get(ctx context.Context, progress Progress, args ...string) error {
	c := newCommand(ctx, progress, a.dir, "apt-get", append(append([]string{"-q"}, a.options...), args...)...)
	c.Stdout = c.Stderr
	return c.explain(ctx, c.Run())
}

// depends returns what apt-cache says of a package's dependencies; nothing for one
// that it does not know.
func (a *apt) depends(ctx context.Context, name string) (string, error) {
	out, err := newCommand(ctx, nil, a.dir, "apt-cache", append(append([]string{}, a.options...), "depends", name)...).output(ctx, 1<<20)
	if err != nil && api.KindOf(err) != api.Unavailable {
		return "", err
	}
	return out, nil
}

// download fetches a package and returns its path.
func (a *apt) download(ctx context.Context, name string, progress Progress) (string, error) {
	if err := a.get(ctx, progress, "download", name); err != nil {
		return "", err
	}
	debs, err := filepath.Glob(filepath.Join(a.dir, name+"_*.deb"))
	if err != nil || len(debs) != 1 {
		return "", api.E("", api.NotFound, name, fmt.Errorf("apt-get download made %d files, not one", len(debs)))
	}
	return debs[0], nil
}

// architectures are those that kernels and the base image can be made for.
var architectures = map[string]bool{"amd64": true, "arm64": true}

// taggedFor gives a name the tag of what is made for an architecture: "latest" for
// the host's own.
func taggedFor(name, arch string) (string, error) {
	switch {
	case arch == "" || arch == runtime.GOARCH:
		return name + ":latest", nil
	case architectures[arch]:
		return name + ":" + arch, nil
	}
	return "", api.E("", api.Invalid, arch, errors.New("no such architecture; there are amd64 and arm64"))
}
