package stage

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/wire"
)

// setRlimits sets the limits last thing before execve, so that none of them starves
// the stage itself. Hard limits above the present ones were raised by the runtime.
func (p *process) setRlimits() error {
	for _, r := range p.Rlimits {
		resource, ok := wire.Rlimit(r.Type)
		if !ok {
			return fmt.Errorf("process.rlimits: unknown type %q", r.Type)
		}
		// syscall.Setrlimit, not unix.Prlimit: it tells the Go runtime that the limit
		// of open files is wanted as it is.
		err := syscall.Setrlimit(resource, &syscall.Rlimit{Cur: r.Soft, Max: r.Hard})
		if err != nil {
			return fmt.Errorf("process.rlimits: %s %d:%d: %w", r.Type, r.Soft, r.Hard, err)
		}
	}
	return nil
}

func (p *process) setScheduling() error {
	if s := p.Scheduler; s != nil {
		attr := &unix.SchedAttr{
			Size: unix.SizeofSchedAttr, Policy: s.Policy, Flags: s.Flags, Nice: s.Nice, Priority: s.Priority,
			Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period,
		}
		if err := unix.SchedSetAttr(0, attr, 0); err != nil {
			return fmt.Errorf("process.scheduler: %w", err)
		}
	}
	if p.IOPriority != nil {
		const whoProcess = 1 // IOPRIO_WHO_PROCESS
		_, _, errno := unix.RawSyscall(unix.SYS_IOPRIO_SET, whoProcess, 0, uintptr(*p.IOPriority))
		if errno != 0 {
			return fmt.Errorf("process.ioPriority: %w", errno)
		}
	}
	return nil
}

// setPlacement says on which processors and memory nodes the workload runs, within what
// its cgroups leave.
func (p *process) setPlacement() error {
	if len(p.CPUs) > 0 {
		var set unix.CPUSet
		for _, c := range p.CPUs {
			set.Set(c)
		}
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("process.execCPUAffinity.final: processors %v: %w", p.CPUs, err)
		}
	}
	if m := p.MemoryPolicy; m != nil {
		if err := setMemoryPolicy(m.Mode, m.Nodes); err != nil {
			return fmt.Errorf("linux.memoryPolicy: %w", err)
		}
	}
	return nil
}

func (p *process) setPersonality() error {
	if p.Personality == nil {
		return nil
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_PERSONALITY, uintptr(*p.Personality), 0, 0); errno != 0 {
		return fmt.Errorf("linux.personality: %w", errno)
	}
	return nil
}

// keyring joins a session keyring of the container's own, so that it cannot read
// the caller's keys.
func (s *stage) keyring() error {
	if !s.proc.Keyring {
		return nil
	}
	_, err := unix.KeyctlJoinSessionKeyring("berth")
	switch {
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM):
		return nil // no keys in this kernel, or forbidden to us: then none to read either
	case errors.Is(err, unix.EDQUOT):
		s.warn("session keyring: the quota of keys is used up; the container shares its caller's")
		return nil
	}
	return os.NewSyscallError("keyctl(KEYCTL_JOIN_SESSION_KEYRING)", err)
}
