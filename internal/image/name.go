package image

import (
	"errors"
	"fmt"
	"strings"

	"github.com/distribution/reference"

	"github.com/berthcloud/berth/api"
)

// A name is looked up first as it is given, so that local images have short
// names ("base", "kernel/debian-cloud"), then as a docker user means it:
// "debian" is docker.io/library/debian:latest. A tag left out is "latest" both
// ways.

// localName returns the name under which an image that was made here is kept.
func localName(name string) (string, error) {
	ref, err := reference.Parse(strings.TrimSpace(name))
	if err != nil {
		return "", badName(name, err)
	}
	named, ok := ref.(reference.Named)
	if !ok {
		return "", badName(name, errors.New("a digest alone is no name"))
	}
	if _, ok := ref.(reference.Digested); ok {
		return "", badName(name, errors.New("a digest cannot be chosen; name a tag"))
	}
	return reference.TagNameOnly(named).String(), nil
}

// remoteName returns the full name of an image at a registry.
func remoteName(name string) (string, error) {
	named, err := reference.ParseDockerRef(strings.TrimSpace(name))
	if err != nil {
		return "", badName(name, err)
	}
	return named.String(), nil
}

// candidates returns the names to look up, in order.
func candidates(name string) ([]string, error) {
	if len(name) > 4096 {
		return nil, badName(name[:64]+"…", errors.New("longer than 4096 bytes"))
	}
	full, err := remoteName(name)
	if err != nil {
		return nil, err
	}
	if short, err := localName(name); err == nil && short != full {
		return []string{short, full}, nil
	}
	return []string{full}, nil
}

func badName(name string, err error) error {
	return api.E("", api.Invalid, fmt.Sprintf("%q", name), fmt.Errorf("no image name: %w; names look like debian:12 or host/path/name:tag", err))
}

// Familiar shortens a full name as docker shows it: docker.io/library/debian:12
// is debian:12.
func Familiar(name string) string {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return reference.FamiliarString(ref)
}
