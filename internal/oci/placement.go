package oci

import (
	"fmt"
	"runtime"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/bundle"
	"github.com/berthcloud/berth/internal/oci/spawn"
	"github.com/berthcloud/berth/internal/oci/stage"
)

// memoryModes are the modes of set_mempolicy(2) by the kernel's numbers (mempolicy.h).
var memoryModes = []string{
	string(specs.MpolDefault), string(specs.MpolPreferred), string(specs.MpolBind), string(specs.MpolInterleave),
	string(specs.MpolLocal), string(specs.MpolPreferredMany), string(specs.MpolWeightedInterleave),
}

// memoryFlags are the flags that go with the mode, from bit 13 up.
var memoryFlags = []string{string(specs.MpolFNumaBalancing), string(specs.MpolFRelativeNodes), string(specs.MpolFStaticNodes)}

const firstMemoryFlag = 13

// memoryPolicy translates linux.memoryPolicy for set_mempolicy.
func memoryPolicy(p *specs.LinuxMemoryPolicy) (*stage.MemoryPolicy, error) {
	if p == nil {
		return nil, nil
	}
	mode := slices.Index(memoryModes, string(p.Mode))
	if mode < 0 {
		return nil, fmt.Errorf("linux.memoryPolicy.mode: unknown value %q", p.Mode)
	}
	w := &stage.MemoryPolicy{Mode: mode}
	for i, f := range p.Flags {
		bit := slices.Index(memoryFlags, string(f))
		if bit < 0 {
			return nil, fmt.Errorf("linux.memoryPolicy.flags[%d]: unknown value %q", i, f)
		}
		w.Mode |= 1 << (firstMemoryFlag + bit)
	}
	if p.Nodes == "" {
		return w, nil
	}
	nodes, err := bundle.ParseList(p.Nodes)
	if err != nil {
		return nil, fmt.Errorf("linux.memoryPolicy.nodes: %w", err)
	}
	w.Nodes = make([]uint64, slices.Max(nodes)/64+1)
	for _, n := range nodes {
		w.Nodes[n/64] |= 1 << (n % 64)
	}
	return w, nil
}

// affinity returns the processors that a command is to run on before and after it
// joins the container's cgroups; none means that nothing is to be changed.
func affinity(p *specs.CPUAffinity) (initial, final []int, err error) {
	if p == nil {
		return nil, nil, nil
	}
	for _, l := range []struct {
		field, text string
		list        *[]int
	}{{"initial", p.Initial, &initial}, {"final", p.Final, &final}} {
		if l.text == "" {
			continue
		}
		if *l.list, err = bundle.ParseList(l.text); err != nil {
			return nil, nil, fmt.Errorf("process.execCPUAffinity.%s: %w", l.field, err)
		}
	}
	return initial, final, nil
}

// startOn is spawn.Start from a thread that runs on the given processors, which the
// child inherits, so that it does not even pass by the others.
func startOn(cpus []int, cmd *spawn.Cmd) (*spawn.Child, error) {
	if len(cpus) == 0 {
		return spawn.Start(cmd)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return nil, fmt.Errorf("process.execCPUAffinity.initial: %w", err)
	}
	var set unix.CPUSet
	for _, c := range cpus {
		set.Set(c)
	}
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("process.execCPUAffinity.initial: processors %v: %w", cpus, err)
	}
	defer func() { _ = unix.SchedSetaffinity(0, &before) }()
	return spawn.Start(cmd)
}
