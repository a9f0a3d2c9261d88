package cgroup

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Claim leaves of the group what a caller who is not the host's root may make and start
// a process in, and reports whether that is anything. Of v2 the kernel wants the right
// to write to cgroup.procs of the group and of the nearest cgroup above both it and the
// caller's own (cgroup-v2.rst, Delegation Containment). Of v1 it is what the group has
// in those hierarchies whose directory somebody has given to the user.
//
// Rules about devices are left out: only the host's root may make them, of v1 by the
// kernel's devcgroup_update_access, of v2 because they are a BPF program.
func (g *Group) Claim() (bool, error) {
	g.config.SkipDevices = true
	if !g.v2 {
		return g.claimHierarchies()
	}
	own, err := ownDirectory()
	if err != nil {
		return false, nil //nolint:nilerr // without one of v2 there is none above both
	}
	parent := nearest(filepath.Dir(g.Paths()[""]))
	return writable(parent) && writable(filepath.Join(commonAncestor(parent, own), "cgroup.procs")), nil
}

func (g *Group) claimHierarchies() (bool, error) {
	own := map[string]string{}
	for name, dir := range g.Paths() {
		if name != "" && mayDivide(name, nearest(filepath.Dir(dir))) {
			own[name] = dir
		}
	}
	var err error
	g.manager, err = fs.NewManager(g.config, own)
	return len(own) > 0, err
}

// mayDivide reports whether the caller may make cgroups below a directory of v1, in
// which a process can be.
func mayDivide(controller, dir string) bool {
	switch {
	case controller == "devices" || !writable(dir): // a group in devices would have no rules
		return false
	case controller != "cpuset":
		return true
	}
	// A new one has no processors, and takes no process, until it is given those of the
	// one above, which may not have any either (cgroup-v1/cpusets.rst).
	file := filepath.Join(dir, "cpuset.cpus")
	cpus, err := os.ReadFile(file)
	return err == nil && (writable(file) || strings.TrimSpace(string(cpus)) != "")
}

// Given returns the controllers that the caller, who is not the host's root, can use
// below a cgroup that is his, sorted; "freezer" among them where he can pause. path is
// counted from the root of the hierarchies.
func Given(path string) []string {
	var given []string
	if Unified() {
		dir := filepath.Join(mountRoot, path)
		if text, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control")); err == nil && writable(dir) {
			given = append(strings.Fields(string(text)), "freezer") // which every cgroup of v2 has
		}
		slices.Sort(given)
		return given
	}
	for _, name := range v1Names {
		if mayDivide(name, filepath.Join(mountRoot, name, path)) {
			given = append(given, name)
		}
	}
	slices.Sort(given)
	return given
}

// Lacks returns an error where a limit is asked for whose controller a claimed group
// does not have.
func (g *Group) Lacks(r *specs.LinuxResources) error {
	var given []string
	if g.v2 {
		text, err := os.ReadFile(filepath.Join(nearest(filepath.Dir(g.Paths()[""])), "cgroup.controllers"))
		if err != nil {
			return err
		}
		given = strings.Fields(string(text))
	} else {
		for name := range g.Paths() {
			given = append(given, name)
		}
	}
	has := map[string]bool{"cgroup": true} // the files of every cgroup of v2
	for _, name := range given {
		has[name] = true
	}
	for _, n := range needs(r, g.v2) {
		if !has[n.controller] {
			return fmt.Errorf("linux.resources.%s: takes the cgroup controller %s, which is not delegated to this user; root can delegate it", n.field, n.controller)
		}
	}
	return nil
}

// need is a field of linux.resources and the controller that it takes.
type need struct{ field, controller string }

// needs lists what the resources take.
func needs(r *specs.LinuxResources, v2 bool) (list []need) {
	if r == nil {
		return nil
	}
	add := func(wanted bool, field, controller string) {
		if wanted {
			list = append(list, need{field, controller})
		}
	}
	add(r.Memory != nil, "memory", "memory")
	if c := r.CPU; c != nil {
		add(c.Cpus != "" || c.Mems != "", "cpu.cpus", "cpuset")
		other := *c
		other.Cpus, other.Mems = "", ""
		add(other != (specs.LinuxCPU{}), "cpu", "cpu")
	}
	add(r.Pids != nil, "pids", "pids")
	block := "blkio"
	if v2 {
		block = "io"
	}
	add(r.BlockIO != nil, "blockIO", block)
	add(len(r.HugepageLimits) > 0, "hugepageLimits", "hugetlb")
	add(len(r.Rdma) > 0, "rdma", "rdma")
	for _, name := range slices.Sorted(maps.Keys(r.Unified)) {
		controller, _, _ := strings.Cut(name, ".")
		add(true, "unified", controller)
	}
	return list
}

// ownDirectory returns the directory of the caller's own cgroup of v2.
func ownDirectory() (string, error) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return filepath.Join(mountRoot, strings.TrimSuffix(path, "\n")), nil
		}
	}
	return "", os.ErrNotExist
}

// nearest returns the directory, or the nearest one above it that exists.
func nearest(dir string) string {
	for dir != mountRoot && dir != "/" && !exists(dir) {
		dir = filepath.Dir(dir)
	}
	return dir
}

// commonAncestor returns the nearest directory that is a or b or above both.
func commonAncestor(a, b string) string {
	for a != b && a != "/" {
		if len(a) < len(b) {
			a, b = b, a
		}
		a = filepath.Dir(a)
	}
	return a
}

func exists(path string) bool { return unix.Access(path, unix.F_OK) == nil }

func writable(path string) bool { return unix.Access(path, unix.W_OK) == nil }
