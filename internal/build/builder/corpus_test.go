package builder

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/berthcloud/berth/internal/testenv"
)

// TestParserCorpus reads the Dockerfiles that BuildKit tests its parser with, by the
// parser that this program links: each is read, or refused, as they say.
func TestParserCorpus(t *testing.T) {
	dir := filepath.Join(testenv.Module(t, "github.com/moby/buildkit"), "frontend/dockerfile/parser")
	parse := func(path string) (*parser.Result, error) {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		return parser.Parse(f)
	}
	good, _ := filepath.Glob(filepath.Join(dir, "testfiles/*/Dockerfile"))
	for _, path := range good {
		want, err := os.ReadFile(filepath.Join(filepath.Dir(path), "result"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := parse(path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if diff := cmp.Diff(string(want), got.AST.Dump()+"\n"); diff != "" {
			t.Errorf("%s is read otherwise:\n%s", path, diff)
		}
	}
	bad, _ := filepath.Glob(filepath.Join(dir, "testfiles-negative/*/Dockerfile"))
	for _, path := range bad {
		if _, err := parse(path); err == nil {
			t.Errorf("%s is not refused", path)
		}
	}
	lines, err := parse(filepath.Join(dir, "testfile-line/Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	var got [][2]int
	for _, instruction := range lines.AST.Children {
		got = append(got, [2]int{instruction.StartLine, instruction.EndLine})
	}
	if diff := cmp.Diff([][2]int{{5, 5}, {11, 12}, {17, 31}}, got); diff != "" {
		t.Errorf("lines of instructions:\n%s", diff)
	}
	if len(good) < 30 || len(bad) < 4 {
		t.Errorf("there are only %d and %d Dockerfiles", len(good), len(bad))
	}
	t.Logf("%d Dockerfiles read, %d refused", len(good)+1, len(bad))
}
