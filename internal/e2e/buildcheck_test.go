package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/testenv"
)

// buildCheck looks for mistakes and builds nothing.
func buildCheck(t *testing.T, w *world, _ api.Kind) {
	dir := buildContext(t, map[string]string{
		"good": "FROM base\nRUN exit 1\n", "doubtful": "FROM base as x\nWORKDIR /$Y\nCMD true\n", "wrong": "FROM base\n  RUN --mount=type=nothing true\n",
	})
	check := func(name string) testenv.Result {
		return w.Try(t.Context(), "build", "--check", "-f", filepath.Join(dir, name), dir)
	}
	expect(t, "a good one", check("good"), 0, "")
	r := check("doubtful")
	if expect(t, "a doubtful one", r, 1, ""); strings.Count(r.Stderr, "berth: warning: ") != 3 {
		t.Errorf("not three warnings:\n%s", r.Stderr)
	}
	wants(t, "the warnings", r.Stderr, "FromAsCasing", "JSONArgsRecommended", "UndefinedVar", "(doubtful:1)", "(doubtful:2)", "(doubtful:3)", "berth: build: warnings: 3\n")
	r = check("wrong")
	expect(t, "a wrong one", r, 1, "")
	wants(t, "the error", r.Stderr, ">>>   RUN --mount=type=nothing true", "berth: build: wrong:2:3: ", "nothing")
}

// faultAt is how a build says where the fault is.
var faultAt = regexp.MustCompile(`(?m)^berth: build: Dockerfile:([0-9]+):([0-9]+): .+$`)

// buildCorpus has the Dockerfiles that BuildKit tests its parser with checked: what is
// wrong is said in one line, with file, line and column, under the line itself.
func buildCorpus(t *testing.T, w *world, _ api.Kind) {
	dir := filepath.Join(testenv.Module(t, "github.com/moby/buildkit"), "frontend/dockerfile/parser")
	files, err := filepath.Glob(filepath.Join(dir, "testfile*/Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	more, _ := filepath.Glob(filepath.Join(dir, "testfiles*/*/Dockerfile"))
	found := map[string]int{}
	for _, file := range append(files, more...) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		args := []string{"build", "--check"}
		for _, name := range froms(string(text)) {
			args = append(args, "--build-context", name+"=docker-image://base")
		}
		r := w.Try(t.Context(), append(args, filepath.Dir(file))...)
		switch at := faultAt.FindStringSubmatch(r.Stderr); {
		case r.Exit == 0 && r.Stderr == "":
			found["good"]++
		case r.Exit != 1 || strings.Contains(r.Stderr, "goroutine") || r.Err != nil:
			t.Errorf("%s: %s", file, r)
		case strings.Contains(r.Stderr, "\nberth: build: warnings: "):
			found["doubtful"]++
		case at != nil:
			n, _ := strconv.Atoi(at[1])
			wants(t, file, r.Stderr, ">>> "+strings.Split(string(text), "\n")[n-1]+"\n")
			found["wrong"]++
		case len(text) == 0:
			refused(t, file, r, 1, "the Dockerfile cannot be empty")
			found["wrong"]++
		default:
			t.Errorf("%s: nothing is said of where the fault is:\n%s", file, r.Stderr)
		}
	}
	if len(more) < 34 || found["good"] == 0 || found["doubtful"] == 0 || found["wrong"] == 0 {
		t.Errorf("of %d Dockerfiles: %v", len(files)+len(more), found)
	}
	t.Logf("%d Dockerfiles: %v", len(files)+len(more), found)
}

// froms are the images that a Dockerfile begins with, which no registry here has.
func froms(text string) (names []string) {
	parsed, err := parser.Parse(strings.NewReader(text))
	if err != nil {
		return nil
	}
	for _, one := range parsed.AST.Children {
		if strings.EqualFold(one.Value, "from") && one.Next != nil && one.Next.Value != "scratch" {
			names = append(names, one.Next.Value)
		}
	}
	return names
}
