package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/berthcloud/berth"

// source is one Go file of the repository.
type source struct {
	path  string // relative to the repository: internal/engine/start.go
	text  string
	ast   *ast.File
	lines int
}

func (s source) dir() string  { return path.Dir(s.path) }
func (s source) isTest() bool { return strings.HasSuffix(s.path, "_test.go") }

// imports returns the import paths of the file; those of the repository
// without the module's name.
func (s source) imports() []string {
	var all []string
	for _, i := range s.ast.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err == nil {
			all = append(all, strings.TrimPrefix(p, module+"/"))
		}
	}
	return all
}

// root is the repository's top directory, seen from this package.
const root = "../.."

// walk calls f for every file of the repository that a person wrote.
func walk(t *testing.T, f func(name string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			switch d.Name() {
			case ".git", ".cache", "bin", "dist", "testdata", "node_modules", "web":
				return filepath.SkipDir
			}
			return nil
		}
		rel, err := filepath.Rel(root, name)
		if err == nil && d.Type().IsRegular() {
			f(rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// tree parses every Go file of the repository that a person wrote. A file without the package
// clause it needs fails the test.
func tree(t *testing.T) (*token.FileSet, []source) {
	t.Helper()
	fset := token.NewFileSet()
	var all []source
	walk(t, func(name string) {
		if !strings.HasSuffix(name, ".go") {
			return
		}
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		file, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if ast.IsGenerated(file) {
			return // nobody reads it
		}
		all = append(all, source{path: name, text: string(text), ast: file, lines: strings.Count(string(text), "\n")})
	})
	return fset, all
}

// under reports whether the import path or directory p is prefix or below it.
func under(p, prefix string) bool {
	return p == prefix || strings.HasPrefix(p, prefix+"/")
}
