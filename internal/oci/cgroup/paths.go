package cgroup

import (
	"path/filepath"
	"slices"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// Where v2 is mounted, or the hierarchies of v1 and beside them that of v2.
const (
	mountRoot  = "/sys/fs/cgroup"
	hybridRoot = mountRoot + "/unified"
)

// v1Names are the hierarchies that the library knows.
var v1Names = []string{
	"cpuset", "devices", "memory", "cpu", "cpuacct", "pids", "blkio", "hugetlb", "net_cls", "net_prio", "perf_event", "freezer",
	"rdma", "name=systemd", "misc",
}

// below returns the v1 directories of a cgroup with a relative path, which counts from
// the caller's own cgroups. The library finds the same, but reads /proc/self/cgroup
// and /proc/self/mountinfo for each hierarchy again, half a millisecond in all. It is
// left to it (nil) where the mounts are not as usual, or show another part of a
// hierarchy than /proc/self/cgroup counts from, as in some containers.
func below(path string) map[string]string {
	own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil || own["devices"] == "" {
		return nil
	}
	inner := filepath.Clean("/" + path) // whatever dots it has, it stays below
	paths := map[string]string{}
	for name, cgroup := range own {
		if !slices.Contains(v1Names, name) {
			continue
		}
		mount, err := cgroups.FindCgroupMountpoint(mountRoot, name)
		if cgroups.IsNotFound(err) {
			continue
		}
		parent := filepath.Join(mount, cgroup)
		if err != nil || unix.Access(parent, unix.F_OK) != nil {
			return nil
		}
		paths[name] = filepath.Join(parent, inner)
	}
	if cgroups.IsCgroup2HybridMode() {
		paths[""] = filepath.Join(hybridRoot, inner)
	}
	return paths
}
