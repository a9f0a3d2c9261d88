package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/systemd"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// BySystemd reports whether systemd runs this host, and can make cgroups.
func BySystemd() bool { return systemd.IsRunningSystemd() }

// scopePrefix begins the name of a container's scope where linux.cgroupsPath does
// not say another.
const scopePrefix = "berth-oci"

// NewScope names the cgroups of a container that systemd manages, without making
// them. path is linux.cgroupsPath, "SLICE:PREFIX:NAME", which makes the transient unit
// PREFIX-NAME.scope in the slice; SLICE may be empty for system.slice, and the whole
// path for a scope named after the id.
//
// A scope is made of a process (systemd.scope(5)): Settle makes it, not Prepare.
func NewScope(id, path string, r *specs.LinuxResources) (*Group, error) {
	if !BySystemd() {
		return nil, errors.New("--systemd-cgroup: systemd does not run this host; configure the engine for cgroupfs")
	}
	if path == "" {
		path = ":" + scopePrefix + ":" + id
	}
	config, err := scopeConfig(path)
	if err != nil {
		return nil, err
	}
	if config.Resources, err = resources(r); err != nil {
		return nil, err
	}
	return openScope(config, path, nil)
}

// scopeConfig takes a path of the form SLICE:PREFIX:NAME apart.
func scopeConfig(path string) (*cgroups.Cgroup, error) {
	part := strings.Split(path, ":")
	if len(part) != 3 || part[2] == "" || strings.Contains(path, "/") {
		return nil, fmt.Errorf("linux.cgroupsPath: %q is not of the form SLICE:PREFIX:NAME, which --systemd-cgroup wants", path)
	}
	if strings.HasSuffix(part[2], ".slice") {
		return nil, fmt.Errorf("linux.cgroupsPath: %q: a container gets a scope, not a slice", path)
	}
	if part[0] != "" {
		if _, err := systemd.ExpandSlice(part[0]); err != nil {
			return nil, fmt.Errorf("linux.cgroupsPath: %w", err)
		}
	}
	return &cgroups.Cgroup{Parent: part[0], ScopePrefix: part[1], Name: part[2], Systemd: true}, nil
}

func openScope(config *cgroups.Cgroup, path string, paths map[string]string) (*Group, error) {
	g := &Group{v2: Unified(), config: config, scope: path, settled: paths != nil}
	var err error
	if g.v2 {
		g.manager, err = systemd.NewUnifiedManager(config, paths[""])
	} else {
		g.manager, err = systemd.NewLegacyManager(config, maps.Clone(paths))
	}
	if err != nil {
		return nil, fmt.Errorf("linux.cgroupsPath: %w", err)
	}
	return g, nil
}

// Scope returns the path of cgroups that systemd manages, as Open takes it, or "".
func (g *Group) Scope() string { return g.scope }

// Settle makes cgroups that systemd manages, and the process, which may have several
// threads, their first member. Others exist by now, and their members join them in
// other ways.
func (g *Group) Settle(pid int) error {
	if g.scope == "" {
		return nil
	}
	if err := g.manager.Apply(pid); err != nil {
		return fmt.Errorf("linux.cgroupsPath: systemd: %w", err)
	}
	g.settled = true
	return nil
}
