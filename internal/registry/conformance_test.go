package registry_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/berthcloud/berth/internal/testenv"
)

// suite is the OCI distribution conformance suite; tools/distribution pins it.
const suite = "github.com/opencontainers/distribution-spec/conformance"

// cases is how many cases the suite has: the 852 that it runs by itself, and those of
// what the specification leaves open (canceling an upload, tags as parameters), which
// Berth does all the same.
const cases = 986

// TestConformance runs the OCI distribution conformance suite: pull, push, content
// discovery and content management, of sha256 and of sha512.
func TestConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the suite")
	}
	dir := testenv.Dir(t)
	program := filepath.Join(dir, "conformance")
	build := exec.CommandContext(t.Context(), "go", "build", "-modfile=tools/distribution/go.mod", "-o", program, suite)
	build.Dir = testenv.Repository(t)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the suite: %v\n%s", err, out)
	}
	r := open(t)
	run := exec.CommandContext(t.Context(), program)
	run.Dir = dir
	run.Env = append(os.Environ(), "OCI_REGISTRY="+r.addr, "OCI_TLS=disabled", "OCI_VERSION=1.1", "OCI_RESULTS_DIR="+dir,
		"OCI_API_BLOBS_UPLOAD_CANCEL=true", "OCI_API_BLOBS_DIGEST_HEADER=true", "OCI_API_MANIFESTS_DIGEST_HEADER=true", "OCI_API_MANIFESTS_TAG_PARAM=true")
	out, err := run.CombinedOutput()
	count := map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^ *(Disabled|Skip|Pass|FAIL|Error|Total)\.+: +([0-9]+)$`).FindAllSubmatch(out, -1) {
		count[string(m[1])], _ = strconv.Atoi(string(m[2]))
	}
	fmt.Printf("OCI distribution conformance: of %d cases %d passed, %d failed, %d skipped\n",
		count["Total"], count["Pass"], count["FAIL"]+count["Error"], count["Skip"]+count["Disabled"])
	if err != nil || count["Pass"] != count["Total"] || count["Total"] != cases {
		t.Errorf("want %d cases to pass: %v\n%s", cases, err, out)
	}
}
