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
// profile. A call that is allowed whatever its arguments costs none: the kernel
// finds such calls by running the filter once when it is installed, and then does
// not run it for them any more (Linux 5.11, commit 8e01b51a31a1). That works as long
// as nothing but number and architecture is looked at on the way, which holds here.
// What such a call still pays, 29 ns on top of 114, it pays for any filter, be it one
// instruction that allows everything (BenchmarkKernel).
// Calls with conditions on arguments have a leaf of their own.
//
// # Which rule counts
//
// Of the rules for a call, those with conditions are tried in the profile's order;
// the first one without conditions, wherever it stands, says what happens
// otherwise. libseccomp, and so runc and crun, let the rule without conditions win,
// and drop rules that repeat the default action.
//
// # Calls newer than the profile
//
// A C library tries a new call and falls back when it gets ENOSYS, but not when it
// gets EPERM. So calls with a number above all that the profile names, which its
// author cannot have known, get ENOSYS if the default action would refuse them (the
// idea of runc's patchbpf). A default action that asks a tracer or an agent asks
// about new calls too.
package seccomp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"

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

// Encode returns a program as the kernel reads it, eight bytes for an instruction.
func Encode(program []Instruction) []byte {
	b := make([]byte, 0, 8*len(program))
	for _, i := range program {
		b = append(binary.NativeEndian.AppendUint16(b, i.Code), i.JT, i.JF)
		b = binary.NativeEndian.AppendUint32(b, i.K)
	}
	return b
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
	case "loong64":
		return specs.ArchLOONGARCH64
	case "mips":
		return specs.ArchMIPS
	case "mips64":
		return specs.ArchMIPS64
	case "mips64le":
		return specs.ArchMIPSEL64
	case "mipsle":
		return specs.ArchMIPSEL
	case "ppc64":
		return specs.ArchPPC64
	case "ppc64le":
		return specs.ArchPPC64LE
	case "riscv64":
		return specs.ArchRISCV64
	case "s390x":
		return specs.ArchS390X
	}
	return ""
}

func compile(p *specs.LinuxSeccomp, nativeArch specs.Arch) ([]Instruction, error) {
	if err := check(p); err != nil {
		return nil, err
	}
	list, err := families(p.Architectures, nativeArch)
	if err != nil {
		return nil, err
	}
	def, err := verdict(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		return nil, fmt.Errorf("defaultAction: %w", err)
	}
	if len(p.Syscalls) == 0 && def == unix.SECCOMP_RET_ALLOW {
		return nil, nil
	}
	prof, err := parse(p.Syscalls, def)
	if err != nil {
		return nil, err
	}
	c := &code{list: make([]Instruction, 0, 1024)}
	bodies := make([]label, len(list))
	for i := range slices.Backward(list) {
		bodies[i] = c.family(&list[i], prof)
	}
	next := c.ret(unix.SECCOMP_RET_KILL_THREAD)
	for i := range slices.Backward(list) {
		next = c.jump(opEqual, list[i].audit, bodies[i], next)
	}
	c.load(offArch)
	if len(c.list) > maxInstructions {
		return nil, fmt.Errorf("the profile compiles to more than the %d instructions that the kernel takes; it needs fewer conditions or architectures", maxInstructions)
	}
	slices.Reverse(c.list)
	return c.list, nil
}

// check refuses what contradicts itself or is not known, rather than let a container
// run with less than the profile says.
func check(p *specs.LinuxSeccomp) error {
	if Notifies(p) && p.ListenerPath == "" {
		return errors.New("listenerPath: missing, SCMP_ACT_NOTIFY needs the socket of an agent that answers")
	}
	if p.ListenerMetadata != "" && p.ListenerPath == "" {
		return errors.New("listenerMetadata: must not be set without listenerPath")
	}
	for i, f := range p.Flags {
		if f != flagTsync && flag(f) == 0 {
			return fmt.Errorf("flags[%d]: unknown flag %q", i, f)
		}
	}
	return nil
}

// Notifies reports whether a profile hands calls to an agent.
func Notifies(p *specs.LinuxSeccomp) bool {
	return p.DefaultAction == specs.ActNotify ||
		slices.ContainsFunc(p.Syscalls, func(s specs.LinuxSyscall) bool { return s.Action == specs.ActNotify })
}

// flagTsync is known to config-linux.md and means nothing here: the filter goes to
// the one thread that becomes the workload.
const flagTsync = "SECCOMP_FILTER_FLAG_TSYNC"

// Flags returns the flags of seccomp(2) that a profile asks for. With
// SECCOMP_FILTER_FLAG_NEW_LISTENER among them the call returns a descriptor.
func Flags(p *specs.LinuxSeccomp) uint {
	var flags uint
	for _, f := range p.Flags {
		flags |= flag(f)
	}
	if Notifies(p) {
		return flags | unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	}
	// It is about waiting for an agent; the kernel refuses it where there is none.
	return flags &^ unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
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

// rule is what an entry of the profile says about each of its names.
type rule struct {
	conds []specs.LinuxSeccompArg
	ret   uint32
}

// use is one rule for one call, and where the next one for the same call is.
type use struct {
	rule *rule
	next int // in profile.uses, 0 for none
}

// profile has the rules of each call.
type profile struct {
	def   uint32
	first [len(table)]int // by row: where its rules begin in uses, 0 for none
	uses  []use           // the first one is not used
	muxes [len(multiplexers)]mux

	scratch []interval // see intervals
}

// mux has the rules that a multiplexer gets from the calls it leads to.
type mux struct {
	row   int
	rules []*rule
}

// parse checks and translates the entries. An entry that names one argument twice
// means either condition, as with runc: libseccomp cannot say "and" there.
func parse(list []specs.LinuxSyscall, def uint32) (*profile, error) {
	p := &profile{def: def, uses: make([]use, 1, len(table)), scratch: make([]interval, 0, len(table))}
	rets := make([]uint32, len(list))
	for i := range list {
		ret, err := checkEntry(&list[i])
		if err != nil {
			return nil, fmt.Errorf("syscalls[%d].%w", i, err)
		}
		rets[i] = ret
	}
	// Backward, because add puts a rule before those that are there.
	for i := range slices.Backward(list) {
		s := &list[i]
		if !repeats(s.Args) {
			p.add(s.Names, &rule{s.Args, rets[i]})
			continue
		}
		for j := range slices.Backward(s.Args) {
			p.add(s.Names, &rule{s.Args[j : j+1], rets[i]})
		}
	}
	for i, m := range multiplexers {
		p.muxes[i] = mux{rowOf(m.name), p.leads(m.leads)}
	}
	return p, nil
}

// add puts a rule before the others of its calls.
func (p *profile) add(names []string, r *rule) {
	for _, name := range names {
		if row := rowOf(name); row >= 0 {
			p.uses = append(p.uses, use{r, p.first[row]})
			p.first[row] = len(p.uses) - 1
		}
	}
}

// leads returns the rules that a multiplexer gets from those for the calls it leads
// to, as far as they have no conditions.
func (p *profile) leads(names []string) (rules []*rule) {
	for value, name := range names {
		row := rowOf(name)
		if row < 0 {
			continue
		}
		for u := p.first[row]; u != 0; u = p.uses[u].next {
			if r := p.uses[u].rule; len(r.conds) == 0 {
				cond := specs.LinuxSeccompArg{Index: 0, Value: uint64(value), Op: specs.OpEqualTo}
				rules = append(rules, &rule{[]specs.LinuxSeccompArg{cond}, r.ret})
				break
			}
		}
	}
	return rules
}

// checkEntry returns the verdict of an entry.
func checkEntry(s *specs.LinuxSyscall) (uint32, error) {
	if len(s.Names) == 0 {
		return 0, errors.New("names: empty")
	}
	ret, err := verdict(s.Action, s.ErrnoRet)
	if err != nil {
		return 0, fmt.Errorf("action: %w", err)
	}
	for j, a := range s.Args {
		if a.Index > 5 {
			return 0, fmt.Errorf("args[%d].index: %d, a call has six arguments, 0 to 5", j, a.Index)
		}
		if !knownOperator(a.Op) {
			return 0, fmt.Errorf("args[%d].op: unknown operator %q", j, a.Op)
		}
	}
	return ret, nil
}

// repeats reports whether two conditions are about the same argument.
func repeats(args []specs.LinuxSeccompArg) bool {
	seen := uint(0)
	for _, a := range args {
		if seen&(1<<a.Index) != 0 {
			return true
		}
		seen |= 1 << a.Index
	}
	return false
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
	case specs.ActNotify:
		return unix.SECCOMP_RET_USER_NOTIF, nil
	}
	return 0, fmt.Errorf("unknown action %q", a)
}

// refuses reports whether a verdict keeps a call from happening, without asking
// anybody.
func refuses(ret uint32) bool {
	switch ret & unix.SECCOMP_RET_ACTION_FULL {
	case unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_LOG, unix.SECCOMP_RET_TRACE, unix.SECCOMP_RET_USER_NOTIF:
		return false
	}
	return true
}

// leaf is what happens to one call.
type leaf struct {
	rules []*rule // with conditions, in the order in which they are tried
	rest  uint32  // the verdict where none of them holds
}

// leafOf returns what the profile says about the call of a row, and false where it
// says nothing. What it implies for a multiplexer comes before what it says of it.
func (p *profile) leafOf(row int) (leaf, bool) {
	l := leaf{rest: p.def}
	for i := range p.muxes {
		if p.muxes[i].row == row {
			l.rules = slices.Clip(p.muxes[i].rules)
		}
	}
	plain := false
	for u := p.first[row]; u != 0; u = p.uses[u].next {
		r := p.uses[u].rule
		if len(r.conds) > 0 {
			l.rules = append(l.rules, r)
		} else if !plain {
			l.rest, plain = r.ret, true
		}
	}
	return l, p.first[row] != 0 || len(l.rules) > 0
}

// newest returns the number that follows the highest one of a convention that the
// profile names, 0 where it names none.
func (p *profile) newest(a *arch) uint64 {
	for _, row := range slices.Backward(order[a.column]) {
		nr, _ := a.number(int(row))
		if p.first[row] != 0 && uint64(nr) < a.private() {
			return uint64(nr) + 1
		}
	}
	return 0
}

// intervals returns what happens to all numbers of a convention, from 0 on. The
// result lasts until the next call.
func (p *profile) intervals(a *arch) []interval {
	list := p.scratch[:0]
	add := func(first uint64, l leaf) {
		if n := len(list); n > 0 && len(list[n-1].leaf.rules)+len(l.rules) == 0 && list[n-1].leaf.rest == l.rest {
			return
		}
		list = append(list, interval{uint32(first), l})
	}
	known, beyond := p.newest(a), p.def
	if known > 0 && refuses(p.def) {
		beyond = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	}
	next := uint64(0)
	// pass adds the numbers before end that the profile says nothing about.
	pass := func(end uint64) {
		for next < end {
			switch private := a.private(); {
			case next < known:
				add(next, leaf{rest: p.def})
				next = min(end, known)
			case next < private:
				add(next, leaf{rest: beyond})
				next = min(end, private)
			default:
				add(next, leaf{rest: p.def})
				next = end
			}
		}
	}
	for _, row := range order[a.column] {
		if l, ok := p.leafOf(int(row)); ok {
			nr, _ := a.number(int(row))
			pass(uint64(nr))
			add(uint64(nr), l)
			next = uint64(nr) + 1
		}
	}
	pass(1 << 32)
	p.scratch = list
	return list
}
