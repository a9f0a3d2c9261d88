package archtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// layers are the floors of the house, from the top. A package may import
// packages of its own floor's list and of floors below it, never above.
// .golangci.yml narrows that further, package by package.
var layers = []struct {
	name     string
	packages []string
}{
	{"tests of the whole", []string{"internal/testenv", "internal/e2e", "internal/attack", "internal/archtest", "bench"}},
	{"programs", []string{"cmd", "internal/daemon"}},
	{"front ends", []string{"internal/rest", "internal/docker", "internal/registry"}},
	{"use cases", []string{"internal/engine", "internal/build"}},
	{"nouns", []string{"internal/instance", "internal/image", "internal/storage", "internal/network", "internal/store", "internal/host"}},
	{"mechanisms", []string{"internal/oci", "internal/rootless", "internal/qemu", "internal/disk", "internal/keeper", "internal/link", "internal/agent", "internal/pack", "internal/undo"}},
	{"the client", []string{"client"}},
	{"vocabulary", []string{"api"}},
}

// floor returns the index in layers of a package, or -1.
func floor(pkg string) int {
	return slices.IndexFunc(layers, func(l struct {
		name     string
		packages []string
	}) bool {
		return slices.ContainsFunc(l.packages, func(p string) bool { return under(pkg, p) })
	})
}

func TestArrowsPointDown(t *testing.T) {
	_, files := tree(t)
	for _, f := range files {
		if f.isTest() {
			continue
		}
		from := floor(f.dir())
		if from < 0 {
			t.Errorf("%s: package %s has no floor: add it to layers in internal/archtest and to ARCHITECTURE.md", f.path, f.dir())
			continue
		}
		for _, imported := range f.imports() {
			if to := floor(imported); to >= 0 && to < from {
				t.Errorf("%s imports %s: %s may not know %s", f.path, imported, layers[from].name, layers[to].name)
			}
		}
	}
}

// reach says what a package must never depend on, at any distance.
var reach = []struct {
	pkg, never, why string
}{
	{"./api", "golang.org/", "api is vocabulary: the standard library alone"},
	{"./api", "github.com/", "api is vocabulary: the standard library alone"},
	{"./client", module + "/internal", "client is public"},
	{"./cmd/berth", module + "/internal", "the CLI talks only to client"},
	{"./cmd/berth", "github.com/containerd/containerd", "the CLI starts in milliseconds"},
	{"./cmd/berth", "github.com/moby/buildkit", "the CLI starts in milliseconds"},
	{"./cmd/berthd", "github.com/moby/buildkit", "a daemon that builds nothing pays nothing for it"},
	{"./cmd/berth-build", module + "/internal", "it is a client"},
	{"./cmd/berthd", "github.com/sigstore/", "berth-verify reads what strangers sign, not the daemon: its memory is every host's overhead"},
	{"./cmd/berthd", "github.com/hanwen/go-fuse", "berth-lazy serves what has not arrived: an idle daemon pays nothing for it"},
	{"./cmd/berthd", "github.com/containerd/stargz-snapshotter", "berth-lazy reads what strangers wrote, not the daemon"},
	{"./cmd/berth-oci", "net/http", "it starts once per container: package initialization is its start-up time"},
	{"./cmd/berth-oci", "github.com/containerd/containerd", "images end at the engine"},
	{"./cmd/berth-keeper", "net/http", "it lives as long as the host: its memory is every instance's overhead"},
	{"./cmd/berth-keeper", "github.com/containerd/", "it lives as long as the host: its memory is every instance's overhead"},
	{"./cmd/berth-agent", "net/http", "it lives in every guest"},
	{"./cmd/berth-agent", "github.com/containerd/containerd", "it lives in every guest"},
	{"./cmd/berthd", "testing", "test code stays out of programs"},
	{"./cmd/berth", "testing", "test code stays out of programs"},
	{"./cmd/berth-oci", "testing", "test code stays out of programs"},
	{"./cmd/berth-keeper", "testing", "test code stays out of programs"},
	{"./cmd/berth-agent", "testing", "test code stays out of programs"},
	{"./cmd/berth-builder", "testing", "test code stays out of programs"},
	{"./cmd/...", module + "/internal/testenv", "test code stays out of programs"},
}

func TestReach(t *testing.T) {
	deps := map[string][]string{}
	for _, rule := range reach {
		if _, ok := deps[rule.pkg]; ok {
			continue
		}
		if dir := strings.TrimSuffix(strings.TrimSuffix(rule.pkg, "/..."), "/"); !exists(dir) {
			continue // not written yet
		}
		out, err := goList(t, "-deps", rule.pkg)
		if err != nil {
			t.Fatalf("go list -deps %s: %v", rule.pkg, err)
		}
		deps[rule.pkg] = out
	}
	for _, rule := range reach {
		itself := module + strings.TrimPrefix(rule.pkg, ".")
		for _, dep := range deps[rule.pkg] {
			if dep != itself && under(dep, strings.TrimSuffix(rule.never, "/")) {
				t.Errorf("%s depends on %s: %s", rule.pkg, dep, rule.why)
			}
		}
	}
}

func exists(dir string) bool {
	_, err := os.Stat(filepath.Join(root, dir))
	return err == nil
}

func goList(t *testing.T, args ...string) ([]string, error) {
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list"}, args...)...)
	cmd.Dir = root
	out, err := cmd.Output()
	return strings.Fields(string(out)), err
}
