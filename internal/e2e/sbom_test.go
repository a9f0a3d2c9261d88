package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/testenv"
)

// scanner lists the root of an image as a bill of materials, as BuildKit wants it of one
// (docs/attestations/sbom-protocol.md).
const scanner = `#!/bin/sh
cat >$BUILDKIT_SCAN_DESTINATION/sbom.spdx.json <<END
{"_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://spdx.dev/Document", "predicate": {"spdxVersion": "SPDX-2.3", "name": "$(ls $BUILDKIT_SCAN_SOURCE | tr '\n' ' ')"}}
END
`

// sbom has a bill of materials made with an image, and reads it.
func sbom(t *testing.T, w *world, _ api.Kind) {
	dir := testenv.Dir(t)
	for name, content := range map[string]string{
		"scan/scan": scanner, "scan/Dockerfile": "FROM base\nCOPY --chmod=755 scan /scan\nENTRYPOINT [\"/scan\"]\n", "app/Dockerfile": "FROM base\nRUN touch /cargo\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.later(t, "image", "rm", "scanner", "app")
	w.Berth(t, "build", "-q", "-t", "scanner", filepath.Join(dir, "scan"))
	w.Berth(t, "build", "-q", "--sbom=generator=scanner", "-t", "app", filepath.Join(dir, "app"))
	if got := w.Berth(t, "image", "sbom", "app"); !strings.Contains(got, `"spdxVersion": "SPDX-2.3"`) || !strings.Contains(got, " cargo ") {
		t.Errorf("the SBOM is %s", got)
	}
	refused(t, "an image without one", w.Try(t.Context(), "image", "sbom", "base"), 1, "base", "--sbom")
	expect(t, "run", w.Try(t.Context(), "run", "--rm", "--network", "none", "app", "ls", "/cargo"), 0, "/cargo\n")
}
