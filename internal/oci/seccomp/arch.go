package seccomp

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// column is an architecture's place in the table.
type column int

// call is a row of the table.
type call struct {
	name    string
	numbers [columns]int32
}

// arch is one calling convention.
type arch struct {
	name   specs.Arch
	audit  uint32 // AUDIT_ARCH_* as seccomp_data.arch has it
	column column
	bit    uint32 // set in every number (x32)
	wide   bool   // arguments have 64 bits
	big    bool   // the high half of an argument comes first
}

const (
	// x32Bit marks calls of the x32 convention, which share x86-64's AUDIT_ARCH.
	x32Bit = 0x40000000
	// noNumber, -1, is what a tracer leaves behind that skips a call. It has x32Bit and
	// yet is no call of x32.
	noNumber = 0xffffffff
)

// arches are those of the specification, all of which the table has numbers for.
// The conventions x32 and n32 use 64-bit registers for what are 32-bit arguments
// but for a few offsets; libseccomp takes them for 32-bit ones, and so does this
// package.
func arches() []arch {
	return []arch{
		{specs.ArchX86_64, unix.AUDIT_ARCH_X86_64, archX8664, 0, true, false},
		{specs.ArchX32, unix.AUDIT_ARCH_X86_64, archX32, x32Bit, false, false},
		{specs.ArchX86, unix.AUDIT_ARCH_I386, archX86, 0, false, false},
		{specs.ArchARM, unix.AUDIT_ARCH_ARM, archARM, 0, false, false},
		{specs.ArchAARCH64, unix.AUDIT_ARCH_AARCH64, archARM64, 0, true, false},
		{specs.ArchMIPS, unix.AUDIT_ARCH_MIPS, archMIPS, 0, false, true},
		{specs.ArchMIPSEL, unix.AUDIT_ARCH_MIPSEL, archMIPS, 0, false, false},
		{specs.ArchMIPS64, unix.AUDIT_ARCH_MIPS64, archMIPS64, 0, true, true},
		{specs.ArchMIPSEL64, unix.AUDIT_ARCH_MIPSEL64, archMIPS64, 0, true, false},
		{specs.ArchMIPS64N32, unix.AUDIT_ARCH_MIPS64N32, archMIPSN32, 0, false, true},
		{specs.ArchMIPSEL64N32, unix.AUDIT_ARCH_MIPSEL64N32, archMIPSN32, 0, false, false},
		{specs.ArchPPC, unix.AUDIT_ARCH_PPC, archPPC, 0, false, true},
		{specs.ArchPPC64, unix.AUDIT_ARCH_PPC64, archPPC64, 0, true, true},
		{specs.ArchPPC64LE, unix.AUDIT_ARCH_PPC64LE, archPPC64, 0, true, false},
		{specs.ArchRISCV64, unix.AUDIT_ARCH_RISCV64, archRISCV64, 0, true, false},
		{specs.ArchS390, unix.AUDIT_ARCH_S390, archS390, 0, false, true},
		{specs.ArchS390X, unix.AUDIT_ARCH_S390X, archS390X, 0, true, true},
		{specs.ArchLOONGARCH64, unix.AUDIT_ARCH_LOONGARCH64, archLoong64, 0, true, false},
		{specs.ArchPARISC, unix.AUDIT_ARCH_PARISC, archPARISC, 0, false, true},
		{specs.ArchPARISC64, unix.AUDIT_ARCH_PARISC64, archPARISC64, 0, true, true},
		{specs.ArchM68K, unix.AUDIT_ARCH_M68K, archM68K, 0, false, true},
		{specs.ArchSH, unix.AUDIT_ARCH_SHEL, archSH, 0, false, false},
		{specs.ArchSHEB, unix.AUDIT_ARCH_SH, archSH, 0, false, true},
	}
}

// rowOf returns the row of a call in the table, or -1 for a name that is not there:
// too new, or of another system.
func rowOf(name string) int {
	low, high := 0, len(table)
	for low < high {
		mid := int(uint(low+high) / 2)
		switch c := strings.Compare(table[mid].name, name); {
		case c == 0:
			return mid
		case c < 0:
			low = mid + 1
		default:
			high = mid
		}
	}
	return -1
}

// number returns the number of the call of a row, and whether there is one.
func (a *arch) number(row int) (uint32, bool) {
	if row < 0 || table[row].numbers[a.column] < 0 {
		return 0, false
	}
	return uint32(table[row].numbers[a.column]) | a.bit, true
}

// private returns the number from which on calls are the architecture's own: what is
// new to the kernel gets one below.
func (a *arch) private() uint64 {
	if a.column == archARM {
		return 0x0f0000 // __ARM_NR_BASE
	}
	return 1 << 32
}

// Some architectures reach the calls below also through one call that takes the
// wanted one as its first argument (linux/net.h, linux/ipc.h). A rule that forbids
// "socket" must not be passed by through socketcall. A rule with conditions cannot
// be carried over: the arguments are behind a pointer there.
var multiplexers = [...]multiplexer{
	{"socketcall", []string{
		1: "socket", 2: "bind", 3: "connect", 4: "listen", 5: "accept", 6: "getsockname", 7: "getpeername",
		8: "socketpair", 9: "send", 10: "recv", 11: "sendto", 12: "recvfrom", 13: "shutdown", 14: "setsockopt",
		15: "getsockopt", 16: "sendmsg", 17: "recvmsg", 18: "accept4", 19: "recvmmsg", 20: "sendmmsg",
	}},
	{"ipc", []string{
		1: "semop", 2: "semget", 3: "semctl", 4: "semtimedop", 11: "msgsnd", 12: "msgrcv", 13: "msgget",
		14: "msgctl", 21: "shmat", 22: "shmdt", 23: "shmget", 24: "shmctl",
	}},
}

// multiplexer is a call that leads to others, by the value of its first argument.
type multiplexer struct {
	name  string
	leads []string
}

// family are the conventions of one AUDIT_ARCH.
type family struct {
	audit uint32
	list  []*arch
}

// families returns the listed architectures, the native one first: it is the one
// most calls are made with. The native one needs no listing: without it the workload
// could not even exit.
func families(listed []specs.Arch, nativeArch specs.Arch) ([]family, error) {
	all := arches()
	out := make([]family, 0, 1+len(listed))
	add := func(name specs.Arch) bool {
		i := slices.IndexFunc(all, func(a arch) bool { return a.name == name })
		if i < 0 {
			return false
		}
		a := &all[i]
		f := slices.IndexFunc(out, func(f family) bool { return f.audit == a.audit })
		if f < 0 {
			out = append(out, family{audit: a.audit})
			f = len(out) - 1
		}
		if !slices.Contains(out[f].list, a) {
			out[f].list = append(out[f].list, a)
		}
		return true
	}
	add(nativeArch)
	for i, name := range listed {
		if !add(name) {
			return nil, fmt.Errorf("architectures[%d]: unknown architecture %q", i, name)
		}
	}
	return out, nil
}

// family adds the code for calls of one AUDIT_ARCH: the dispatch between
// conventions, then their trees.
func (c *code) family(f *family, p *profile) label {
	if f.audit != unix.AUDIT_ARCH_X86_64 {
		c.search(f.list[0], p.intervals(f.list[0]))
		return c.load(offNumber)
	}
	kill := c.ret(unix.SECCOMP_RET_KILL_THREAD)
	wide, x32 := kill, kill
	var beyond label // what x86-64 does with a number that no call has
	for _, a := range f.list {
		if a.name == specs.ArchX32 {
			x32 = c.search(a, p.intervals(a))
			continue
		}
		list := p.intervals(a)
		wide, beyond = c.search(a, list), c.leaf(a, &list[len(list)-1].leaf)
	}
	if beyond == 0 { // x32 alone
		beyond = kill
	}
	x32 = c.jump(opEqual, noNumber, beyond, x32)
	c.jump(opAtLeast, x32Bit, x32, wide)
	return c.load(offNumber)
}

// Arches returns the names of all architectures that can be compiled for.
func Arches() []string {
	var names []string
	for _, a := range arches() {
		names = append(names, string(a.name))
	}
	return names
}

// Actions returns the actions that can be compiled.
func Actions() []string {
	return []string{
		string(specs.ActKill), string(specs.ActKillProcess), string(specs.ActKillThread), string(specs.ActTrap),
		string(specs.ActErrno), string(specs.ActTrace), string(specs.ActAllow), string(specs.ActLog), string(specs.ActNotify),
	}
}

// Operators returns the operators that can be compiled.
func Operators() []string {
	return []string{
		string(specs.OpNotEqual), string(specs.OpLessThan), string(specs.OpLessEqual), string(specs.OpEqualTo),
		string(specs.OpGreaterEqual), string(specs.OpGreaterThan), string(specs.OpMaskedEqual),
	}
}

// FlagNames returns the flags that can be passed on.
func FlagNames() []string {
	return []string{
		flagTsync, string(specs.LinuxSeccompFlagLog), string(specs.LinuxSeccompFlagSpecAllow), string(specs.LinuxSeccompFlagWaitKillableRecv),
	}
}
