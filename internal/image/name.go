package image

import (
	"errors"
	"fmt"
	"strings"

	"github.com/distribution/reference"

	"github.com/berthcloud/berth/api"
)

// Names are kept as a docker user means them: debian:12 is
// docker.io/library/debian:12, base is docker.io/library/base:latest, whether
// the image was pulled or made here. There is one form in the store, so that
// nothing shadows anything; users see the short form.

// fullName returns the name under which an image is kept.
func fullName(name string) (string, error) {
	if len(name) > maxName {
		return "", badName(name[:64]+"…", fmt.Errorf("longer than %d bytes", maxName))
	}
	named, err := reference.ParseDockerRef(strings.TrimSpace(name))
	if err != nil {
		return "", badName(name, err)
	}
	return named.String(), nil
}

// tagName is fullName for a name that is to be given to an image, which a
// digest cannot be.
func tagName(name string) (string, error) {
	full, err := fullName(name)
	if err != nil {
		return "", err
	}
	if strings.Contains(full, "@") {
		return "", badName(name, errors.New("a digest cannot be chosen; name a tag"))
	}
	return full, nil
}

// CheckTag refuses what cannot be given to an image as a name.
func CheckTag(name string) error {
	_, err := tagName(name)
	return err
}

// maxName bounds a name in bytes.
const maxName = 4096

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
