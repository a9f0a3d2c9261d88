package seccomp

import (
	"slices"
	"sort"
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

// x32Bit marks calls of the x32 convention, which share x86-64's AUDIT_ARCH.
const x32Bit = 0x40000000

// arches are those that the table has numbers for.
func arches() []arch {
	return []arch{
		{specs.ArchX86_64, unix.AUDIT_ARCH_X86_64, archX8664, 0, true, false},
		{specs.ArchX32, unix.AUDIT_ARCH_X86_64, archX32, x32Bit, true, false},
		{specs.ArchX86, unix.AUDIT_ARCH_I386, archX86, 0, false, false},
		{specs.ArchARM, unix.AUDIT_ARCH_ARM, archARM, 0, false, false},
		{specs.ArchAARCH64, unix.AUDIT_ARCH_AARCH64, archARM64, 0, true, false},
		{specs.ArchMIPS, unix.AUDIT_ARCH_MIPS, archMIPS, 0, false, true},
		{specs.ArchMIPSEL, unix.AUDIT_ARCH_MIPSEL, archMIPS, 0, false, false},
		{specs.ArchMIPS64, unix.AUDIT_ARCH_MIPS64, archMIPS64, 0, true, true},
		{specs.ArchMIPSEL64, unix.AUDIT_ARCH_MIPSEL64, archMIPS64, 0, true, false},
		{specs.ArchPPC, unix.AUDIT_ARCH_PPC, archPPC, 0, false, true},
		{specs.ArchPPC64, unix.AUDIT_ARCH_PPC64, archPPC64, 0, true, true},
		{specs.ArchPPC64LE, unix.AUDIT_ARCH_PPC64LE, archPPC64, 0, true, false},
		{specs.ArchRISCV64, unix.AUDIT_ARCH_RISCV64, archRISCV64, 0, true, false},
		{specs.ArchS390X, unix.AUDIT_ARCH_S390X, archS390X, 0, true, true},
		{specs.ArchLOONGARCH64, unix.AUDIT_ARCH_LOONGARCH64, archLoong64, 0, true, false},
	}
}

// rowOf returns the row of a call in the table.
func rowOf(name string) (int, bool) {
	return slices.BinarySearchFunc(table[:], name, func(c call, name string) int { return strings.Compare(c.name, name) })
}

// number returns the number of a call.
func (a *arch) number(name string) (uint32, bool) {
	row, ok := rowOf(name)
	if !ok || table[row].numbers[a.column] < 0 {
		return 0, false
	}
	return uint32(table[row].numbers[a.column]) | a.bit, true
}

// Some 32-bit architectures reach the calls below also through one call that takes
// the wanted one as its first argument (linux/net.h, linux/ipc.h). A rule that
// forbids "socket" must not be passed by through socketcall. A rule with conditions
// cannot be carried over: the arguments are behind a pointer there.
var (
	viaSocketcall = [...]string{
		1: "socket", 2: "bind", 3: "connect", 4: "listen", 5: "accept", 6: "getsockname", 7: "getpeername",
		8: "socketpair", 9: "send", 10: "recv", 11: "sendto", 12: "recvfrom", 13: "shutdown", 14: "setsockopt",
		15: "getsockopt", 16: "sendmsg", 17: "recvmsg", 18: "accept4", 19: "recvmmsg", 20: "sendmmsg",
	}
	viaIPC = [...]string{
		1: "semop", 2: "semget", 3: "semctl", 4: "semtimedop", 11: "msgsnd", 12: "msgrcv", 13: "msgget",
		14: "msgctl", 21: "shmat", 22: "shmdt", 23: "shmget", 24: "shmctl",
	}
)

// multiplexed returns the call that also leads to name, and the first argument that
// does.
func multiplexed(name string) (call string, number uint64, ok bool) {
	for i, n := range viaSocketcall {
		if n == name && n != "" {
			return "socketcall", uint64(i), true
		}
	}
	for i, n := range viaIPC {
		if n == name && n != "" {
			return "ipc", uint64(i), true
		}
	}
	return "", 0, false
}

// family are the conventions of one AUDIT_ARCH.
type family struct {
	audit uint32
	list  []arch
}

// families returns the listed architectures, the native one first: it is the one
// most calls are made with. An empty list means the native one alone.
func families(listed []specs.Arch, nativeArch specs.Arch) []family {
	want := map[specs.Arch]bool{nativeArch: true} // without it the workload could not even exit
	for _, a := range listed {
		want[a] = true
	}
	var out []family
	for _, a := range arches() {
		if !want[a.name] {
			continue
		}
		merged := false
		for i := range out {
			if out[i].audit == a.audit {
				out[i].list = append(out[i].list, a)
				merged = true
			}
		}
		if !merged {
			out = append(out, family{a.audit, []arch{a}})
		}
	}
	sort.SliceStable(out, func(i, j int) bool {
		return out[i].list[0].name == nativeArch && out[j].list[0].name != nativeArch
	})
	return out
}

// body returns the code for calls of the family: dispatch between conventions, then
// their trees.
func (f *family) body(rules []rule, def uint32) code {
	if f.audit != unix.AUDIT_ARCH_X86_64 {
		return append(code{load(offNumber)}, f.list[0].tree(rules, def)...)
	}
	wide, x32 := code{ret(unix.SECCOMP_RET_KILL_THREAD)}, code{ret(unix.SECCOMP_RET_KILL_THREAD)}
	for _, a := range f.list {
		if a.name == specs.ArchX32 {
			x32 = a.tree(rules, def)
		} else {
			wide = a.tree(rules, def)
		}
	}
	// Number -1, from a tracer that skips the call, is not x32 but must not match
	// anything either: the tree for x32 has no such number, its default applies.
	b := code{load(offNumber)}
	b = append(b, jumpIf(opAtLeast, x32Bit, x32, wide)...)
	return append(append(b, wide...), x32...)
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
		string(specs.ActErrno), string(specs.ActTrace), string(specs.ActAllow), string(specs.ActLog),
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
		string(specs.LinuxSeccompFlagLog), string(specs.LinuxSeccompFlagSpecAllow), string(specs.LinuxSeccompFlagWaitKillableRecv),
	}
}
