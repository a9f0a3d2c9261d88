// Package cgroup places a container in its cgroups, v1 or v2, and holds it to its
// limits. The files are written by github.com/opencontainers/cgroups; this package
// adds how a process joins them cheaply.
//
// The library's own way, writing the pid to cgroup.procs of each v1 hierarchy,
// makes the kernel take a lock that waits for every fork in flight, several
// milliseconds a time. A thread that moves only itself ("0" to tasks, v1) and a
// process born into its cgroup (CLONE_INTO_CGROUP, v2) do without.
//
// Where the engine wants it, systemd makes the cgroups instead, see scope.go.
package cgroup

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // the library finds its device code through this import
	"github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fs2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Group is the set of a container's cgroup directories.
type Group struct {
	manager cgroups.Manager
	v2      bool
	config  *cgroups.Cgroup

	kernelTCP *int64 // linux.resources.memory.kernelTCP

	scope   string // SLICE:PREFIX:NAME where systemd manages the cgroups, see scope.go
	settled bool   // … and has made them
}

// Unified reports whether this host has cgroup v2 alone.
func Unified() bool { return cgroups.IsCgroup2UnifiedMode() }

// New names the cgroups of a container without making them. path is
// linux.cgroupsPath: an absolute one counts from the root of the hierarchies, a
// relative or empty one (then id) from the caller's own cgroup.
func New(id, path string, r *specs.LinuxResources) (*Group, error) {
	if strings.Count(path, ":") == 2 && !strings.Contains(path, "/") {
		return nil, fmt.Errorf("linux.cgroupsPath: %q is for cgroups that systemd manages; give --systemd-cgroup too, or configure the engine for cgroupfs", path)
	}
	if r != nil && len(r.Unified) > 0 && !Unified() {
		return nil, errors.New(`linux.resources.unified: names files of cgroup v2, but this host's controllers are on v1 (config-linux.md: "If the conversion is not possible the runtime MUST generate an error")`)
	}
	res, err := resources(r)
	if err != nil {
		return nil, err
	}
	config := &cgroups.Cgroup{Resources: res}
	if path == "" {
		config.Name = id
	} else {
		config.Path = path
	}
	var paths map[string]string
	if inner := cmp.Or(path, id); !Unified() && !filepath.IsAbs(inner) {
		paths = below(inner)
	}
	g, err := open(config, paths)
	if err == nil && r != nil && r.Memory != nil {
		g.kernelTCP = r.Memory.KernelTCP
	}
	return g, err
}

// Open finds the cgroups of a container again by what Paths and Scope returned.
func Open(paths map[string]string, scope string) (*Group, error) {
	if scope != "" {
		config, err := scopeConfig(scope)
		if err != nil {
			return nil, err
		}
		config.Resources = &cgroups.Resources{SkipDevices: true}
		return openScope(config, scope, paths)
	}
	return open(&cgroups.Cgroup{Resources: &cgroups.Resources{SkipDevices: true}}, paths)
}

func open(config *cgroups.Cgroup, paths map[string]string) (*Group, error) {
	g := &Group{v2: Unified(), config: config}
	var err error
	if g.v2 {
		g.manager, err = fs2.NewManager(config, paths[""])
	} else {
		g.manager, err = fs.NewManager(config, paths)
	}
	if err != nil {
		return nil, fmt.Errorf("cgroups: %w", err)
	}
	return g, nil
}

// Paths returns the directories: by controller, or one under "" on v2.
func (g *Group) Paths() map[string]string { return g.manager.GetPaths() }

// Create makes the directories and sets the limits. It fails where Vacant does.
func (g *Group) Create() error {
	if err := g.Vacant(); err != nil {
		return err
	}
	if err := g.Prepare(); err != nil {
		return err
	}
	return g.Complete()
}

// Vacant fails where the cgroup has processes already: limits would hit them, and
// delete would kill them.
func (g *Group) Vacant() error {
	if pids, err := g.Pids(); err == nil && len(pids) > 0 {
		return fmt.Errorf(`linux.cgroupsPath: the cgroup has %d processes already (config-linux.md: "check if the container cgroup is fit for purpose, and MUST generate an error if such a check fails")`, len(pids))
	}
	return nil
}

// Prepare is the part of Create that must come before the first process: it makes
// the directory that a process can only be born into.
func (g *Group) Prepare() error {
	if g.scope != "" {
		return nil
	}
	if g.v2 {
		return g.makeAll()
	}
	if hybrid := g.Paths()[""]; hybrid != "" {
		if err := os.MkdirAll(hybrid, 0o755); err != nil {
			return fmt.Errorf("linux.cgroupsPath: %w", err)
		}
	}
	return nil
}

// Apart reports whether Complete concerns no process before it joins by OpenTasks, so
// that it may go on while the first one is born.
func (g *Group) Apart() bool { return !g.v2 && g.scope == "" }

// Complete is the rest of Create.
func (g *Group) Complete() error {
	if g.Apart() {
		if err := g.makeAll(); err != nil {
			return err
		}
	}
	if dir := g.Paths()["devices"]; !g.v2 && dir != "" && !g.config.SkipDevices {
		if err := writeDevices(dir, g.config.Devices); err != nil {
			return err
		}
		g.config.SkipDevices = true
	}
	if err := g.manager.Set(g.config.Resources); err != nil {
		return fmt.Errorf("linux.resources: %w", err)
	}
	return g.setKernelTCP()
}

// setKernelTCP limits the buffers of TCP, which v1 alone can do and the library does
// not.
func (g *Group) setKernelTCP() error {
	dir := g.Paths()["memory"]
	if g.kernelTCP == nil || g.v2 || dir == "" {
		return nil
	}
	fd, err := openControl(dir, "memory.kmem.tcp.limit_in_bytes")
	if err != nil {
		return fmt.Errorf("linux.resources.memory.kernelTCP: %w", err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(strconv.FormatInt(*g.kernelTCP, 10))); err != nil {
		return fmt.Errorf("linux.resources.memory.kernelTCP: %d: %w", *g.kernelTCP, err)
	}
	return nil
}

func (g *Group) makeAll() error {
	if err := g.manager.Apply(-1); err != nil { // -1: makes directories, moves nothing
		return fmt.Errorf("linux.cgroupsPath: %w", err)
	}
	return nil
}

// OpenBirth opens the directory that a new process is to be born into (Linux 5.7,
// CLONE_INTO_CGROUP): the cgroup of v2, or of the unified hierarchy that a hybrid
// host has beside v1. It returns -1 where there is none, or not yet.
func (g *Group) OpenBirth() (int, error) {
	dir := g.Paths()[""]
	if dir == "" || g.scope != "" && !g.settled {
		return -1, nil
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "cgroup", Path: dir, Err: err}
	}
	return fd, nil
}

// OpenTasks opens the tasks files of the v1 hierarchies: a thread joins by writing
// "0" to each.
func (g *Group) OpenTasks() ([]int, error) {
	if g.v2 {
		return nil, nil
	}
	var files []int
	seen := map[string]bool{} // controllers mounted together share a directory
	for name, dir := range g.Paths() {
		if name == "" || dir == "" || seen[dir] {
			continue
		}
		seen[dir] = true
		fd, err := unix.Open(dir+"/tasks", unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			for _, open := range files {
				unix.Close(open)
			}
			return nil, &os.PathError{Op: "cgroup", Path: dir, Err: err}
		}
		files = append(files, fd)
	}
	return files, nil
}

// Enter moves a process that may have several threads into the cgroups. It is the
// slow way, for CRIU, whose children are to be born there.
func (g *Group) Enter(pid int) error {
	if g.scope != "" {
		return nil // Settle has done it
	}
	if err := g.manager.Apply(pid); err != nil {
		return fmt.Errorf("linux.cgroupsPath: %w", err)
	}
	return nil
}

// Roots returns the cgroups as /proc/PID/cgroup names them, by controller, or one
// under "" on v2.
func (g *Group) Roots() map[string]string {
	roots := map[string]string{}
	for controller, dir := range g.Paths() {
		rel := strings.TrimPrefix(dir, "/sys/fs/cgroup")
		if controller != "" { // below the hierarchy's directory
			_, rel, _ = strings.Cut(strings.TrimPrefix(rel, "/"), "/")
			rel = "/" + rel
		} else if !g.v2 {
			continue // a hybrid host's unified hierarchy, which limits nothing
		}
		roots[controller] = rel
	}
	return roots
}

// FreezerPath returns the directory that stops all processes, "" without one.
func (g *Group) FreezerPath() string {
	if g.v2 {
		return g.manager.Path("")
	}
	return g.manager.Path("freezer")
}

// Update changes limits of a living container; nil fields stay.
func (g *Group) Update(r *specs.LinuxResources) error {
	res, err := resources(r)
	if err != nil {
		return err
	}
	res.SkipDevices = true
	if err := g.manager.Set(res); err != nil {
		return fmt.Errorf("linux.resources: %w", err)
	}
	return nil
}

// Freeze stops all processes of the group, or lets them go on.
func (g *Group) Freeze(frozen bool) error {
	if g.FreezerPath() == "" {
		return errors.New("the cgroup controller freezer is not delegated to this user; root can delegate it")
	}
	state := cgroups.Thawed
	if frozen {
		state = cgroups.Frozen
	}
	return g.manager.Freeze(state)
}

// Frozen reports whether the group is frozen.
func (g *Group) Frozen() (bool, error) {
	state, err := g.manager.GetFreezerState()
	return state == cgroups.Frozen, err
}

// Pids returns the processes of the group and of those below it.
func (g *Group) Pids() ([]int, error) {
	dir := g.Paths()["devices"]
	if g.v2 {
		dir = g.Paths()[""]
	} else if dir == "" { // of a claimed group
		for _, dir = range g.Paths() {
			break // a process is in all of them
		}
	}
	pids, err := cgroups.GetAllPids(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return pids, err
}

// Kill ends all processes of the group and of those below it.
func (g *Group) Kill() error {
	if g.v2 {
		// Atomic, against forks too (Linux 5.14).
		err := os.WriteFile(filepath.Join(g.manager.Path(""), "cgroup.kill"), []byte("1"), 0)
		if err == nil || errors.Is(err, unix.ENODEV) {
			return nil
		}
	}
	pids, err := g.Pids()
	for _, pid := range pids {
		if kerr := unix.Kill(pid, unix.SIGKILL); kerr != nil && kerr != unix.ESRCH {
			err = errors.Join(err, kerr)
		}
	}
	return err
}

// Destroy removes the directories. The library repeats while processes die.
func (g *Group) Destroy() error {
	if err := g.manager.Destroy(); err != nil {
		return fmt.Errorf("cgroups: %w", err)
	}
	return nil
}

// Stats measures the group.
func (g *Group) Stats() (*cgroups.Stats, error) { return g.manager.GetStats() }

// OOMKills returns how many processes of the group the kernel has killed for want
// of memory.
func (g *Group) OOMKills() (uint64, error) { return g.manager.OOMKillCount() }
