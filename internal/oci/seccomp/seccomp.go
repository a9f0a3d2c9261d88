// Package seccomp compiles linux.seccomp of a specification into a BPF program for
// the kernel, without libseccomp and so without cgo.
//
// # The shape of a program
//
//	load arch
//	x86-64?  load nr ─▶ x32 bit set? ─▶ tree for x32
//	              └───▶ tree for x86-64
//	i386?    load nr ─▶ tree
//	else     kill: an architecture that the profile does not list
//
// A tree is a binary search over intervals of system call numbers that share a
// verdict, so a call costs about eight comparisons, not one for every name in the
// profile. Calls with conditions on arguments have a leaf of their own, which tries
// its rules in the profile's order; a rule without conditions comes last.
//
// Every piece of code is position-independent and ends in returns, so pieces are
// joined by concatenation and no label has to be resolved.
//
// # Calls newer than the profile
//
// A C library tries a new call and falls back when it gets ENOSYS, but not when it
// gets EPERM. So calls with a number above all that the profile names, which its
// author cannot have known, get ENOSYS if the default action would refuse them (the
// idea of runc's patchbpf).
package seccomp

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

//go:generate go run ./gen

// Instruction is one instruction of a program: struct sock_filter.
type Instruction struct {
	Code   uint16
	JT, JF uint8
	K      uint32
}

// maxInstructions is BPF_MAXINSNS of the kernel.
const maxInstructions = 4096

// Compile returns the program for this machine. It returns nil where the profile
// restricts nothing.
func Compile(p *specs.LinuxSeccomp) ([]Instruction, error) {
	return compile(p, native(runtime.GOARCH))
}

// native returns the architecture that the kernel of a GOARCH runs.
func native(goarch string) specs.Arch {
	switch goarch {
	case "amd64":
		return specs.ArchX86_64
	case "arm64":
		return specs.ArchAARCH64
	case "386":
		return specs.ArchX86
	case "arm":
		return specs.ArchARM
	case "riscv64":
		return specs.ArchRISCV64
	case "ppc64le":
		return specs.ArchPPC64LE
	case "s390x":
		return specs.ArchS390X
	case "loong64":
		return specs.ArchLOONGARCH64
	}
	return ""
}

func compile(p *specs.LinuxSeccomp, nativeArch specs.Arch) ([]Instruction, error) {
	if err := check(p); err != nil {
		return nil, err
	}
	def, err := verdict(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		return nil, fmt.Errorf("defaultAction: %w", err)
	}
	if len(p.Syscalls) == 0 && def == unix.SECCOMP_RET_ALLOW {
		return nil, nil
	}
	rules, err := parseRules(p.Syscalls, def)
	if err != nil {
		return nil, err
	}
	var program code
	program = append(program, load(offArch))
	for _, family := range families(p.Architectures, nativeArch) {
		body := family.body(rules, def)
		program = append(program, jumpIf(opEqual, family.audit, nil, body)...)
		program = append(program, body...)
	}
	program = append(program, ret(unix.SECCOMP_RET_KILL_THREAD))
	if len(program) > maxInstructions {
		return nil, fmt.Errorf("the profile compiles to %d instructions, the kernel takes %d", len(program), maxInstructions)
	}
	return program, nil
}

// check refuses what this package does not do, rather than let a container run
// with less than the profile says.
func check(p *specs.LinuxSeccomp) error {
	notify := p.DefaultAction == specs.ActNotify
	for _, s := range p.Syscalls {
		notify = notify || s.Action == specs.ActNotify
	}
	if notify || p.ListenerPath != "" || p.ListenerMetadata != "" {
		return errors.New("SCMP_ACT_NOTIFY and listenerPath: this runtime does not hand a listener to an agent yet")
	}
	for i, a := range p.Architectures {
		if !strings.HasPrefix(string(a), "SCMP_ARCH_") {
			return fmt.Errorf("architectures[%d]: unknown architecture %q", i, a)
		}
	}
	for i, f := range p.Flags {
		if flag(f) == 0 {
			return fmt.Errorf("flags[%d]: unknown flag %q", i, f)
		}
	}
	return nil
}

// Flags returns the flags of seccomp(2) that a profile asks for.
func Flags(p *specs.LinuxSeccomp) uint {
	var flags uint
	for _, f := range p.Flags {
		flags |= flag(f)
	}
	return flags
}

func flag(f specs.LinuxSeccompFlag) uint {
	switch f {
	case specs.LinuxSeccompFlagLog:
		return unix.SECCOMP_FILTER_FLAG_LOG
	case specs.LinuxSeccompFlagSpecAllow:
		return unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	case specs.LinuxSeccompFlagWaitKillableRecv:
		return unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	}
	return 0
}

// rule is one entry of the profile, for all its names.
type rule struct {
	names []string
	conds []specs.LinuxSeccompArg
	ret   uint32
	rows  []int  // of the table; a name that is not there is too new, or of another system
	muxed []rule // what the rule implies for socketcall and ipc
}

// plain is 1 for a rule without conditions, which matches whatever comes to it.
func (r *rule) plain() int {
	if len(r.conds) == 0 {
		return 1
	}
	return 0
}

func newRule(names []string, conds []specs.LinuxSeccompArg, ret uint32) rule {
	r := rule{names: names, conds: conds, ret: ret, rows: make([]int, 0, len(names))}
	for _, name := range names {
		if row, ok := rowOf(name); ok {
			r.rows = append(r.rows, row)
		}
		if call, number, ok := multiplexed(name); ok && len(conds) == 0 {
			cond := specs.LinuxSeccompArg{Index: 0, Value: number, Op: specs.OpEqualTo}
			r.muxed = append(r.muxed, rule{names: []string{call}, conds: []specs.LinuxSeccompArg{cond}, ret: ret})
		}
	}
	return r
}

// parseRules checks and translates the entries. An entry that names one argument
// twice means either condition, as with runc: libseccomp cannot say "and" there.
func parseRules(list []specs.LinuxSyscall, def uint32) ([]rule, error) {
	var rules []rule
	for i, s := range list {
		field := fmt.Sprintf("syscalls[%d]", i)
		if len(s.Names) == 0 {
			return nil, fmt.Errorf("%s.names: empty", field)
		}
		ret, err := verdict(s.Action, s.ErrnoRet)
		if err != nil {
			return nil, fmt.Errorf("%s.action: %w", field, err)
		}
		twice := false
		for j, a := range s.Args {
			if a.Index > 5 {
				return nil, fmt.Errorf("%s.args[%d].index: %d, a call has six arguments", field, j, a.Index)
			}
			if !knownOperator(a.Op) {
				return nil, fmt.Errorf("%s.args[%d].op: unknown operator %q", field, j, a.Op)
			}
			for _, b := range s.Args[:j] {
				twice = twice || a.Index == b.Index
			}
		}
		if !twice {
			rules = append(rules, newRule(s.Names, s.Args, ret))
			continue
		}
		for _, a := range s.Args {
			rules = append(rules, newRule(s.Names, []specs.LinuxSeccompArg{a}, ret))
		}
	}
	return rules, nil
}

func knownOperator(op specs.LinuxSeccompOperator) bool {
	switch op {
	case specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo,
		specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual:
		return true
	}
	return false
}

// verdict returns the SECCOMP_RET_* value of an action.
func verdict(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	data := uint32(unix.EPERM)
	if errno != nil {
		if *errno > 0xffff {
			return 0, fmt.Errorf("errnoRet %d is larger than 65535", *errno)
		}
		data = uint32(*errno)
	}
	switch a {
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | data, nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | data, nil
	}
	if errno != nil {
		return 0, fmt.Errorf("%q takes no errnoRet", a)
	}
	switch a {
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	}
	return 0, fmt.Errorf("unknown action %q", a)
}

// refuses reports whether a verdict keeps a call from happening.
func refuses(ret uint32) bool {
	switch ret & unix.SECCOMP_RET_ACTION_FULL {
	case unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_LOG, unix.SECCOMP_RET_TRACE:
		return false
	}
	return true
}

// leaf is what happens to one system call number.
type leaf struct {
	nr    uint32
	rules []*rule // those with conditions first
}

// entry is one rule for one number.
type entry struct {
	nr   uint32
	rule *rule
}

// leaves collects the rules of each number of an architecture, sorted, and the
// highest number that the profile names.
func (a *arch) leaves(rules []rule) (list []leaf, highest uint32) {
	entries := make([]entry, 0, len(table))
	for i := range rules {
		r := &rules[i]
		for _, row := range r.rows {
			if nr := table[row].numbers[a.column]; nr >= 0 {
				entries = append(entries, entry{uint32(nr) | a.bit, r})
				highest = max(highest, uint32(nr)|a.bit)
			}
		}
		for j := range r.muxed {
			if nr, ok := a.number(r.muxed[j].names[0]); ok {
				entries = append(entries, entry{nr, &r.muxed[j]})
			}
		}
	}
	slices.SortStableFunc(entries, func(x, y entry) int {
		if c := cmp.Compare(x.nr, y.nr); c != 0 {
			return c
		}
		return cmp.Compare(x.rule.plain(), y.rule.plain())
	})
	list = make([]leaf, 0, len(entries))
	for _, e := range entries {
		if n := len(list); n == 0 || list[n-1].nr != e.nr {
			list = append(list, leaf{nr: e.nr})
		}
		l := &list[len(list)-1]
		l.rules = append(l.rules, e.rule)
	}
	return list, highest
}
