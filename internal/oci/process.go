package oci

import (
	"fmt"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/capability"
	"github.com/berthcloud/berth/internal/oci/landlock"
	"github.com/berthcloud/berth/internal/oci/seccomp"
	"github.com/berthcloud/berth/internal/oci/stage"
	"github.com/berthcloud/berth/internal/oci/wire"
)

// planProcess translates a process of the specification. s gives
// what belongs to the container: seccomp, Landlock, personality, memory policy; pid is a
// process in its user namespace.
func (r *Runtime) planProcess(p *specs.Process, s *specs.Spec, pid int) (stage.Process, error) {
	w := stage.Process{
		Args: p.Args, Env: p.Env, Cwd: p.Cwd,
		UID: p.User.UID, GID: p.User.GID, Username: p.User.Username, Groups: p.User.AdditionalGids, SetGroups: !mayNotSetGroups(pid), Umask: -1,
		NoNewPrivs: p.NoNewPrivileges, Rlimits: p.Rlimits, AppArmor: p.ApparmorProfile, SELinux: p.SelinuxLabel,
		Terminal: p.Terminal,
	}
	if p.User.Umask != nil {
		w.Umask = int(*p.User.Umask)
	}
	if p.ConsoleSize != nil {
		w.Rows, w.Cols = uint16(p.ConsoleSize.Height), uint16(p.ConsoleSize.Width)
	}
	if p.Capabilities != nil {
		w.Caps = r.filterCaps(*p.Capabilities)
	}
	for i, l := range p.Rlimits {
		if _, ok := wire.Rlimit(l.Type); !ok {
			return w, fmt.Errorf(`process.rlimits[%d].type: unknown type %q (config.md: "The runtime MUST generate an error for any values which cannot be mapped to a relevant kernel interface")`, i, l.Type)
		}
	}
	if p.IOPriority != nil {
		class := map[specs.IOPriorityClass]int{specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3}[p.IOPriority.Class]
		value := class<<13 | p.IOPriority.Priority // IOPRIO_PRIO_VALUE of the kernel
		w.IOPriority = &value
	}
	var err error
	if w.Scheduler, err = scheduler(p.Scheduler); err != nil {
		return w, err
	}
	if pers := s.Linux.Personality; pers != nil {
		if w.Personality, err = personality(pers); err != nil {
			return w, err
		}
	}
	if w.MemoryPolicy, err = memoryPolicy(s.Linux.MemoryPolicy); err != nil {
		return w, err
	}
	if w.Landlock, err = landlockDomain(s.Annotations); err != nil {
		return w, fmt.Errorf("annotations[%q]: %w", landlock.Annotation, err)
	}
	if p := s.Linux.Seccomp; p != nil {
		program, err := seccomp.Compile(p)
		if err != nil {
			return w, fmt.Errorf("linux.seccomp: %w", err)
		}
		w.Seccomp, w.SeccompFlags = seccomp.Encode(program), seccomp.Flags(p)
	}
	return w, nil
}

// landlockDomain returns what a container's annotation asks for, as this kernel has it.
func landlockDomain(annotations map[string]string) (*landlock.Domain, error) {
	text, ok := annotations[landlock.Annotation]
	if !ok {
		return nil, nil
	}
	p, err := landlock.Parse(text)
	if err != nil {
		return nil, err
	}
	version, err := landlock.Version()
	if err != nil {
		return nil, err
	}
	return p.Domain(version)
}

// filterCaps drops capabilities that cannot be had, with a warning: a container
// with less than asked is safe, and engines ask for what newer kernels have.
func (r *Runtime) filterCaps(c specs.LinuxCapabilities) specs.LinuxCapabilities {
	available := capability.Bounding()
	warned := map[string]bool{}
	for _, set := range []*[]string{&c.Bounding, &c.Effective, &c.Inheritable, &c.Permitted, &c.Ambient} {
		kept, dropped := capability.Filter(*set, available)
		*set = kept
		for _, name := range dropped {
			if !warned[name] {
				warned[name] = true
				r.warn("process.capabilities: %s is not available here and left out", name)
			}
		}
	}
	return c
}

func personality(p *specs.LinuxPersonality) (*uint32, error) {
	var v uint32
	switch p.Domain {
	case specs.PerLinux:
	case specs.PerLinux32:
		v = 0x0008 // PER_LINUX32
	default:
		return nil, fmt.Errorf("linux.personality.domain: unknown value %q", p.Domain)
	}
	if len(p.Flags) > 0 {
		return nil, fmt.Errorf("linux.personality.flags: none are defined, %q is unknown", p.Flags[0])
	}
	return &v, nil
}

func scheduler(s *specs.Scheduler) (*stage.Scheduler, error) {
	if s == nil {
		return nil, nil
	}
	policies := map[specs.LinuxSchedulerPolicy]uint32{
		specs.SchedOther: unix.SCHED_NORMAL, specs.SchedFIFO: unix.SCHED_FIFO, specs.SchedRR: unix.SCHED_RR,
		specs.SchedBatch: unix.SCHED_BATCH, specs.SchedIdle: unix.SCHED_IDLE, specs.SchedDeadline: unix.SCHED_DEADLINE,
	}
	flags := map[specs.LinuxSchedulerFlag]uint64{
		specs.SchedFlagResetOnFork: unix.SCHED_FLAG_RESET_ON_FORK, specs.SchedFlagReclaim: unix.SCHED_FLAG_RECLAIM,
		specs.SchedFlagDLOverrun: unix.SCHED_FLAG_DL_OVERRUN, specs.SchedFlagKeepPolicy: unix.SCHED_FLAG_KEEP_POLICY,
		specs.SchedFlagKeepParams: unix.SCHED_FLAG_KEEP_PARAMS, specs.SchedFlagUtilClampMin: unix.SCHED_FLAG_UTIL_CLAMP_MIN,
		specs.SchedFlagUtilClampMax: unix.SCHED_FLAG_UTIL_CLAMP_MAX,
	}
	policy, ok := policies[s.Policy]
	if !ok {
		return nil, fmt.Errorf("process.scheduler.policy: unknown value %q", s.Policy)
	}
	w := &stage.Scheduler{Policy: policy, Priority: uint32(s.Priority), Nice: s.Nice, Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period}
	for _, name := range s.Flags {
		bit, ok := flags[name]
		if !ok {
			return nil, fmt.Errorf("process.scheduler.flags: unknown value %q", name)
		}
		w.Flags |= bit
	}
	return w, nil
}

// prepareProcess does from outside what the new process may not do itself: its
// oom_score_adj, and hard limits above the caller's.
func (r *Runtime) prepareProcess(pid int, p *specs.Process) error {
	if p.OOMScoreAdj != nil {
		if err := r.setOOMScoreAdj(pid, *p.OOMScoreAdj); err != nil {
			return err
		}
	}
	for _, l := range p.Rlimits {
		resource, _ := wire.Rlimit(l.Type)
		var cur unix.Rlimit
		if err := unix.Prlimit(pid, resource, nil, &cur); err != nil || l.Hard <= cur.Max {
			continue
		}
		if err := unix.Prlimit(pid, resource, &unix.Rlimit{Cur: cur.Cur, Max: l.Hard}, nil); err != nil {
			return fmt.Errorf("process.rlimits: %s: hard limit %d is above the caller's %d: %w", l.Type, l.Hard, cur.Max, err)
		}
	}
	return nil
}

// setOOMScoreAdj sets the score as low as it may be. Lowering it below the own one
// takes CAP_SYS_RESOURCE, which even root lacks on some hosts: a container that is
// killed a little sooner is better than none.
func (r *Runtime) setOOMScoreAdj(pid, want int) error {
	path := "/proc/" + strconv.Itoa(pid) + "/oom_score_adj"
	if has, err := readInt(path); err == nil && has == want {
		return nil // an ordinary user may not even write the same value
	}
	err := writeFile(path, strconv.Itoa(want))
	if err == nil {
		return nil
	}
	own, rerr := readInt("/proc/self/oom_score_adj")
	if rerr != nil || want >= own {
		return fmt.Errorf("process.oomScoreAdj: %w", err)
	}
	r.warn("process.oomScoreAdj: %d is below the caller's %d, which takes CAP_SYS_RESOURCE; it stays at %d", want, own, own)
	return nil
}
