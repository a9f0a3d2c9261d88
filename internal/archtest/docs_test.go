package archtest

import (
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDocumentsNameTests wants every test that a document names to exist: "`TestX`", or
// "`TestX…`" for all that begin so.
func TestDocumentsNameTests(t *testing.T) {
	exists := map[string]bool{}
	_, files := tree(t)
	for _, f := range files {
		if !f.isTest() {
			continue
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok {
				exists[fn.Name.Name] = true
			}
		}
	}
	documents, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+)(…?)[^`]*`")
	for _, path := range append(documents, filepath.Join(root, "SPECIFICATION.md")) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range named.FindAllStringSubmatch(string(text), -1) {
			found := exists[m[1]]
			for name := range exists {
				found = found || m[2] != "" && strings.HasPrefix(name, m[1])
			}
			if !found {
				t.Errorf("%s names %s, which does not exist", filepath.Base(path), m[0])
			}
		}
	}
}
