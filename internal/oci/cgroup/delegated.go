package cgroup

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Delegated reports whether a caller who is not the host's root may make the group
// and start a process in it. A v1 hierarchy is not safe to hand over and counts as
// none; of v2 the kernel wants the right to write to cgroup.procs of the group and of
// the nearest cgroup above both it and the caller's own (cgroup-v2.rst, Delegation
// Containment).
func (g *Group) Delegated() bool {
	if !g.v2 {
		return false
	}
	own, err := ownDirectory()
	if err != nil {
		return false
	}
	parent := filepath.Dir(g.Paths()[""])
	for !exists(parent) && parent != mountpoint {
		parent = filepath.Dir(parent)
	}
	return writable(parent) && writable(filepath.Join(commonAncestor(parent, own), "cgroup.procs"))
}

// SkipDevices leaves out the rules about devices, which only the host's root may load:
// the kernel refuses the BPF program of anyone else.
func (g *Group) SkipDevices() { g.config.SkipDevices = true }

const mountpoint = "/sys/fs/cgroup"

// ownDirectory returns the directory of the caller's own cgroup of v2.
func ownDirectory() (string, error) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return filepath.Join(mountpoint, strings.TrimSuffix(path, "\n")), nil
		}
	}
	return "", os.ErrNotExist
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
