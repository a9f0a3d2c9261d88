package attack

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// targetAttacks lead mount targets, and the directories made for them, out of
// the root. What the runtime makes on the host, the comparison finds.
var targetAttacks = []attack{
	{"mount targets are links", "CVE-2021-30465, CVE-2024-45310", false, targetsAreLinks},
	{"working directory and devices below links", "CVE-2024-45310", false, madeBelowLinks},
	{"mount target swapped while containers start", "CVE-2021-30465", true, targetSwapped},
	{"directories swapped while they are made", "CVE-2024-45310", true, madeWhileSwapped},
}

// outward leads names of the image to the victim's directory in every way a
// link can.
func (a *testbed) outward() (dests []string) {
	up := strings.Repeat("../", 20)
	for name, target := range map[string]string{
		"abs": a.victim, "rel": up + a.victim, "dir": up, "dangling": up + a.victim + "/made", "magic": "/proc/self/root" + a.victim,
	} {
		a.must(os.Symlink(target, a.rootfs(name)))
	}
	return []string{"/abs/in", "/rel/in", "/dir" + a.victim + "/in", "/dangling/in", up + a.victim + "/in", "/dangling", "/magic/in"}
}

func targetsAreLinks(a *testbed) verdict {
	a.shell("echo started")
	var tries []verdict
	kept := a.spec.Mounts
	for _, dest := range a.outward() {
		a.spec.Mounts = append(slices.Clip(kept),
			specs.Mount{Destination: dest, Type: "tmpfs", Source: "tmpfs"},
			specs.Mount{Destination: dest + "/sub/file", Type: "bind", Source: "/etc/passwd", Options: []string{"bind"}})
		tries = append(tries, a.judgeStart())
	}
	return worst(tries)
}

// judgeStart runs the container; the host tells the rest.
func (a *testbed) judgeStart() verdict {
	if r := a.run(); !r.started() {
		return refusal(r.stderr)
	}
	return held()
}

func madeBelowLinks(a *testbed) verdict {
	a.shell("echo started")
	var tries []verdict
	for _, dest := range a.outward() {
		a.spec.Process.Cwd = filepath.Join("/", dest)
		tries = append(tries, a.judgeStart())
		a.spec.Process.Cwd = "/"
		mode := os.FileMode(0o666)
		a.spec.Linux.Devices = []specs.LinuxDevice{{Path: filepath.Join("/", dest, "null"), Type: "c", Major: 1, Minor: 3, FileMode: &mode}}
		tries = append(tries, a.judgeStart())
		a.spec.Linux.Devices = nil
	}
	return worst(tries)
}

// swapped makes a directory that containers share, in which "a" is a directory
// and a link to target in turns.
func (a *testbed) swapped(target string) (stop func()) {
	shared := filepath.Join(a.dir, "shared")
	a.must(os.MkdirAll(filepath.Join(shared, "a"), 0o755))
	a.must(os.Symlink(target, filepath.Join(shared, "b")))
	a.bind(shared, "/vol")
	return exchange(filepath.Join(shared, "a"), filepath.Join(shared, "b"))
}

func targetSwapped(a *testbed) verdict {
	a.shell("echo started")
	defer a.swapped(strings.Repeat("../", 20) + a.victim)()
	a.spec.Mounts = append(a.spec.Mounts, specs.Mount{Destination: "/vol/a/in", Type: "tmpfs", Source: "tmpfs"},
		specs.Mount{Destination: "/vol/a", Type: "bind", Source: "/", Options: []string{"bind", "ro"}})
	var tries []verdict
	for range a.rounds {
		tries = append(tries, a.judgeStart())
	}
	return worst(tries)
}

// madeWhileSwapped has the runtime make a path of many elements below the swapped
// one.
func madeWhileSwapped(a *testbed) verdict {
	a.shell("echo started")
	defer a.swapped(strings.Repeat("../", 20) + a.victim)()
	a.spec.Mounts = append(a.spec.Mounts,
		specs.Mount{Destination: "/vol/a/1/2/3/4/5/6/7/8", Type: "tmpfs", Source: "tmpfs"},
		specs.Mount{Destination: "/vol/a/x/y/z/file", Type: "bind", Source: "/etc/passwd", Options: []string{"bind"}})
	var tries []verdict
	for range a.rounds {
		tries = append(tries, a.judgeStart())
		a.must(os.RemoveAll(filepath.Join(a.dir, "shared/a/1")))
		a.must(os.RemoveAll(filepath.Join(a.dir, "shared/a/x")))
	}
	return worst(tries)
}
