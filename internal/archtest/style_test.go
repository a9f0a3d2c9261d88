package archtest

import (
	"bufio"
	"flag"
	"fmt"
	"go/ast"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	maxFunction  = 80  // lines, from func to the closing brace
	maxFile      = 800 // lines
	maxInterface = 10  // methods
)

var update = flag.Bool("update", false, "write the list of long functions anew")

const ratchet = "testdata/long-functions.txt"

// TestSizes holds functions and files to their length. Functions that were
// longer when the rule came stand in the ratchet's list with their length:
// they may shrink, they may not grow, and no new one may join.
func TestSizes(t *testing.T) {
	fset, files := tree(t)
	known := readRatchet(t)
	long := map[string]int{}
	for _, f := range files {
		if f.lines > maxFile && !f.isTest() {
			t.Errorf("%s has %d lines, more than %d: it holds more than one idea", f.path, f.lines, maxFile)
		}
		if f.isTest() {
			continue // tables are long
		}
		for _, decl := range f.ast.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			lines := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1
			if lines <= maxFunction {
				continue
			}
			name := f.dir() + "." + functionName(fn)
			long[name] = lines
			if !*update && lines > known[name] {
				t.Errorf("%s: %s has %d lines, more than %d: name its steps", f.path, functionName(fn), lines, max(maxFunction, known[name]))
			}
		}
	}
	for name := range known {
		if _, ok := long[name]; !ok && !*update {
			t.Errorf("%s: %s is short now: take it off the list (go test ./internal/archtest -update)", ratchet, name)
		}
	}
	if *update {
		writeRatchet(t, long)
	}
}

func functionName(fn *ast.FuncDecl) string {
	if fn.Recv == nil || len(fn.Recv.List) == 0 {
		return fn.Name.Name
	}
	typ := fn.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if id, ok := typ.(*ast.Ident); ok {
		return id.Name + "." + fn.Name.Name
	}
	return fn.Name.Name
}

func readRatchet(t *testing.T) map[string]int {
	t.Helper()
	known := map[string]int{}
	f, err := os.Open(ratchet)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for scan := bufio.NewScanner(f); scan.Scan(); {
		var name string
		var lines int
		if _, err := fmt.Sscan(scan.Text(), &name, &lines); err == nil {
			known[name] = lines
		}
	}
	return known
}

func writeRatchet(t *testing.T, long map[string]int) {
	t.Helper()
	var rows []string
	for name, lines := range long {
		rows = append(rows, fmt.Sprintf("%s %d\n", name, lines))
	}
	slices.Sort(rows)
	if err := os.WriteFile(ratchet, []byte(strings.Join(rows, "")), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestInterfacesAreSmall(t *testing.T) {
	_, files := tree(t)
	for _, f := range files {
		ast.Inspect(f.ast, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if i, ok := spec.Type.(*ast.InterfaceType); ok && i.Methods.NumFields() > maxInterface {
				t.Errorf("%s: interface %s has %d methods, more than %d: what not everybody needs is an optional interface",
					f.path, spec.Name.Name, i.Methods.NumFields(), maxInterface)
			}
			return true
		})
	}
}

// TestPackageComments wants exactly one package comment in every package.
func TestPackageComments(t *testing.T) {
	_, files := tree(t)
	commented := map[string][]string{}
	for _, f := range files {
		if f.isTest() {
			continue
		}
		if _, ok := commented[f.dir()]; !ok {
			commented[f.dir()] = nil
		}
		if f.ast.Doc != nil && strings.TrimSpace(f.ast.Doc.Text()) != "" {
			commented[f.dir()] = append(commented[f.dir()], path.Base(f.path))
		}
	}
	for dir, where := range commented {
		if len(where) != 1 {
			t.Errorf("package %s has %d package comments %v, not one", dir, len(where), where)
		}
	}
}

// TestUnsafe wants unsafe code where a reviewer looks for it.
func TestUnsafe(t *testing.T) {
	_, files := tree(t)
	for _, f := range files {
		imports := f.imports()
		if slices.Contains(imports, "unsafe") && !strings.HasSuffix(strings.TrimSuffix(f.path, "_test.go"), "_unsafe") &&
			!strings.HasSuffix(f.path, "_unsafe.go") {
			t.Errorf("%s imports unsafe: name it %s", f.path, strings.TrimSuffix(f.path, ".go")+"_unsafe.go")
		}
		if slices.Contains(imports, "C") {
			t.Errorf("%s uses cgo: programs are static and build everywhere", f.path)
		}
	}
}

// selfWired are the files that may run code by being linked, each with why
// there is no other way.
var selfWired = map[string]string{
	"internal/oci/cgroup/cgroup.go": "opencontainers/cgroups applies device rules only where its package devices is linked in",
}

// TestNoInit wants things wired by hand, in order.
func TestNoInit(t *testing.T) {
	_, files := tree(t)
	for _, f := range files {
		if selfWired[f.path] != "" {
			continue
		}
		for _, decl := range f.ast.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s has an init function: wire it by hand in cmd", f.path)
			}
		}
		if f.isTest() {
			continue
		}
		for _, spec := range f.ast.Imports {
			if spec.Name != nil && spec.Name.Name == "_" && spec.Path.Value != `"embed"` && spec.Path.Value != `"unsafe"` {
				t.Errorf("%s imports %s for its side effects: wire it by hand in cmd", f.path, spec.Path.Value)
			}
		}
	}
}

// unfinished are words that mark work to do; each names the issue that does
// it, as in "TODO(#12)".
var unfinished = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b(\(#\d+\))?`)

func TestNoUnfinishedWork(t *testing.T) {
	walk(t, func(name string) {
		switch filepath.Ext(name) {
		case ".go", ".sh", ".md", ".yml", ".service", "":
		default:
			return
		}
		if name == "LICENSE" {
			return
		}
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(string(text), "\n") {
			if m := unfinished.FindStringSubmatch(line); m != nil && m[2] == "" {
				t.Errorf("%s:%d: %s without its issue", name, i+1, m[1])
			}
		}
	})
}

// TestGoModHasNoReplace wants "go install module@version" to work.
func TestGoModHasNoReplace(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	if regexp.MustCompile(`(?m)^replace\b`).Match(text) {
		t.Error("go.mod has a replace directive")
	}
}
