package seccomp

import (
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	moby "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// data is struct seccomp_data.
type data struct {
	nr, arch uint32
	args     [6]uint64
}

// packet lays d out for the interpreter, which loads big-endian words: each word
// stands at its offset, and the halves of an argument as on a little-endian (or, with
// big, a big-endian) machine.
func (d data) packet(big bool) []byte {
	b := make([]byte, 64)
	binary.BigEndian.PutUint32(b[0:], d.nr)
	binary.BigEndian.PutUint32(b[4:], d.arch)
	for i, a := range d.args {
		low, high := 16+8*i, 20+8*i
		if big {
			low, high = high, low
		}
		binary.BigEndian.PutUint32(b[low:], uint32(a))
		binary.BigEndian.PutUint32(b[high:], uint32(a>>32))
	}
	return b
}

// machine runs a program.
type machine struct{ vm *bpf.VM }

func boot(t testing.TB, program []Instruction) machine {
	t.Helper()
	raw := make([]bpf.Instruction, len(program))
	for i, in := range program {
		raw[i] = bpf.RawInstruction{Op: in.Code, Jt: in.JT, Jf: in.JF, K: in.K}.Disassemble()
	}
	vm, err := bpf.NewVM(raw)
	if err != nil {
		t.Fatalf("not a valid program: %v", err)
	}
	return machine{vm}
}

func (m machine) run(t testing.TB, d data, big bool) uint32 {
	t.Helper()
	v, err := m.vm.Run(d.packet(big))
	if err != nil {
		t.Fatal(err)
	}
	return uint32(v)
}

// meaning is what a profile says, worked out rule by rule without any cleverness:
// what the compiled program must mean too.
type meaning struct {
	arch  arch
	def   uint32
	rules map[uint32][]statement // by number, those with conditions first
	known uint32                 // numbers below are no news to the profile
}

type statement struct {
	conds []specs.LinuxSeccompArg
	ret   uint32
}

func meaningOf(p *specs.LinuxSeccomp, a arch) *meaning {
	m := &meaning{arch: a, rules: map[uint32][]statement{}}
	m.def, _ = verdict(p.DefaultAction, p.DefaultErrnoRet)
	add := func(name string, conds []specs.LinuxSeccompArg, ret uint32) {
		if nr, ok := a.number(rowOf(name)); ok {
			m.rules[nr] = append(m.rules[nr], statement{conds, ret})
		}
	}
	plain := map[string]bool{}
	for _, s := range p.Syscalls {
		for _, name := range s.Names {
			if nr, ok := a.number(rowOf(name)); ok && uint64(nr) < a.private() {
				m.known = max(m.known, nr+1)
			}
			ret, _ := verdict(s.Action, s.ErrnoRet)
			for _, mux := range multiplexers {
				i := slices.Index(mux.leads, name)
				if i < 0 || len(s.Args) > 0 || plain[name] || rowOf(name) < 0 {
					continue
				}
				add(mux.name, []specs.LinuxSeccompArg{{Value: uint64(i), Op: specs.OpEqualTo}}, ret)
			}
			plain[name] = plain[name] || len(s.Args) == 0
		}
	}
	for _, withConds := range []bool{true, false} {
		for _, s := range p.Syscalls {
			ret, _ := verdict(s.Action, s.ErrnoRet)
			conds := [][]specs.LinuxSeccompArg{s.Args}
			if repeats(s.Args) {
				conds = conds[:0]
				for _, c := range s.Args {
					conds = append(conds, []specs.LinuxSeccompArg{c})
				}
			}
			for _, name := range s.Names {
				for _, c := range conds {
					if withConds == (len(c) > 0) {
						add(name, c, ret)
					}
				}
			}
		}
	}
	return m
}

func (m *meaning) of(d data) uint32 {
	for _, s := range m.rules[d.nr] {
		if holds(m.arch, s.conds, d) {
			return s.ret
		}
	}
	if m.known > 0 && d.nr >= m.known && uint64(d.nr) < m.arch.private() && refuses(m.def) {
		return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	}
	return m.def
}

func holds(a arch, conds []specs.LinuxSeccompArg, d data) bool {
	for _, c := range conds {
		v, x, two := d.args[c.Index], c.Value, c.ValueTwo
		if !a.wide {
			v, x, two = v&0xffffffff, x&0xffffffff, two&0xffffffff
		}
		ok := false
		switch c.Op {
		case specs.OpEqualTo:
			ok = v == x
		case specs.OpNotEqual:
			ok = v != x
		case specs.OpLessThan:
			ok = v < x
		case specs.OpLessEqual:
			ok = v <= x
		case specs.OpGreaterThan:
			ok = v > x
		case specs.OpGreaterEqual:
			ok = v >= x
		case specs.OpMaskedEqual:
			ok = v&x == two&x
		}
		if !ok {
			return false
		}
	}
	return true
}

// archOf returns a convention by name.
func archOf(name specs.Arch) arch {
	for _, a := range arches() {
		if a.name == name {
			return a
		}
	}
	return arch{}
}

// interesting are argument values around which comparisons change.
func interesting(r *rand.Rand, p *specs.LinuxSeccomp) uint64 {
	values := []uint64{0, 1, 0xffffffff, 1 << 32, 1<<63 - 1, 1<<64 - 1}
	if len(p.Syscalls) > 0 {
		if args := p.Syscalls[r.IntN(len(p.Syscalls))].Args; len(args) > 0 {
			a := args[r.IntN(len(args))]
			values = append(values, a.Value, a.Value+1, a.Value-1, a.ValueTwo, a.Value|1<<32, a.Value<<32, a.Value&a.ValueTwo)
		}
	}
	return values[r.IntN(len(values))]
}

// differ compares the compiled program with the profile's meaning for every number
// of each listed convention and random arguments.
func differ(t testing.TB, p *specs.LinuxSeccomp, nativeArch specs.Arch, rounds int) {
	t.Helper()
	program, err := compile(p, nativeArch)
	if err != nil {
		t.Fatal(err)
	}
	m, r := boot(t, program), rand.New(rand.NewPCG(1, 2))
	for _, name := range append([]specs.Arch{nativeArch}, p.Architectures...) {
		a := archOf(name)
		if a.audit == 0 {
			continue
		}
		meant := meaningOf(p, a)
		for _, nr := range numbersOf(&a) {
			for range rounds {
				d := data{nr: nr, arch: a.audit}
				for i := range d.args {
					d.args[i] = interesting(r, p)
				}
				if got, exp := m.run(t, d, a.big), meant.of(d); got != exp {
					t.Fatalf("%s call %d %x: verdict %#x, the profile means %#x", name, nr, d.args, got, exp)
				}
			}
		}
	}
}

// numbersOf returns every number of a convention, the ones beside them, and strange
// ones.
func numbersOf(a *arch) (list []uint32) {
	for _, row := range order[a.column] {
		nr, _ := a.number(int(row))
		list = append(list, nr-1, nr, nr+1)
	}
	list = append(list, a.bit, a.bit+5000, a.bit+9999, a.bit+1<<20, x32Bit-1, 1<<31)
	slices.Sort(list)
	list = slices.Compact(list)
	if a.audit == unix.AUDIT_ARCH_X86_64 { // the other convention's are none of its
		list = slices.DeleteFunc(list, func(nr uint32) bool { return (nr >= x32Bit) != (a.bit != 0) })
	}
	return list
}

// defaultProfile is moby's for a container with docker's capabilities.
func defaultProfile(t testing.TB) *specs.LinuxSeccomp {
	t.Helper()
	caps := []string{"CAP_CHOWN", "CAP_SYS_CHROOT", "CAP_NET_RAW"}
	p, err := moby.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDefaultProfileMeansWhatItSays(t *testing.T) {
	p := defaultProfile(t)
	differ(t, p, native(runtime.GOARCH), 4)
	program, err := Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("moby's default profile: %d instructions", len(program))
}

// TestVerdicts holds the program to single statements that need no reference.
func TestVerdicts(t *testing.T) {
	errno := uint(38)
	p := &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno,
		Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86},
		Syscalls: []specs.LinuxSyscall{
			{Names: []string{"read", "write", "execve", "no_such_call"}, Action: specs.ActAllow},
			{Names: []string{"clone3"}, Action: specs.ActErrno, ErrnoRet: &errno},
			{Names: []string{"clone"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 0, Value: 0x7e020000, ValueTwo: 0, Op: specs.OpMaskedEqual}}},
			{Names: []string{"personality"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 0, Value: 0, Op: specs.OpEqualTo}, {Index: 0, Value: 8, Op: specs.OpEqualTo}}},
			{Names: []string{"ptrace"}, Action: specs.ActKillProcess},
			{Names: []string{"socket"}, Action: specs.ActLog},
		},
	}
	program, err := compile(p, specs.ArchX86_64)
	if err != nil {
		t.Fatal(err)
	}
	m := boot(t, program)
	const x64, x86 = unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386
	eperm := unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	enosys := unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	for _, c := range []struct {
		name string
		d    data
		want uint32
	}{
		{"read", data{0, x64, [6]uint64{}}, unix.SECCOMP_RET_ALLOW},
		{"open, not listed", data{2, x64, [6]uint64{}}, eperm},
		{"clone without namespaces", data{56, x64, [6]uint64{0x01200011}}, unix.SECCOMP_RET_ALLOW},
		{"clone of a user namespace", data{56, x64, [6]uint64{0x10000011}}, eperm},
		{"clone, high half set", data{56, x64, [6]uint64{1<<40 | 0x11}}, unix.SECCOMP_RET_ALLOW},
		{"clone3", data{435, x64, [6]uint64{}}, enosys},
		{"personality 0", data{135, x64, [6]uint64{0}}, unix.SECCOMP_RET_ALLOW},
		{"personality 8", data{135, x64, [6]uint64{8}}, unix.SECCOMP_RET_ALLOW},
		{"personality 1", data{135, x64, [6]uint64{1}}, eperm},
		{"personality 8 with a high half", data{135, x64, [6]uint64{1<<32 | 8}}, eperm},
		{"ptrace", data{101, x64, [6]uint64{}}, unix.SECCOMP_RET_KILL_PROCESS},
		{"newer than the profile", data{436, x64, [6]uint64{}}, enosys},
		{"much newer", data{4000, x64, [6]uint64{}}, enosys},
		{"no call", data{0xffffffff, x64, [6]uint64{}}, enosys},
		{"x32, not listed", data{x32Bit, x64, [6]uint64{}}, unix.SECCOMP_RET_KILL_THREAD},
		{"32-bit read", data{3, x86, [6]uint64{}}, unix.SECCOMP_RET_ALLOW},
		{"32-bit socketcall to socket", data{102, x86, [6]uint64{1}}, unix.SECCOMP_RET_LOG},
		{"32-bit socketcall to connect", data{102, x86, [6]uint64{3}}, eperm},
		{"another architecture", data{0, unix.AUDIT_ARCH_AARCH64, [6]uint64{}}, unix.SECCOMP_RET_KILL_THREAD},
	} {
		if got := m.run(t, c.d, false); got != c.want {
			t.Errorf("%s: %#x; want %#x", c.name, got, c.want)
		}
	}
}

// TestEveryArchitecture compiles one profile for each and compares.
func TestEveryArchitecture(t *testing.T) {
	p := defaultProfile(t)
	for _, a := range arches() {
		if a.name == specs.ArchX32 {
			continue // never native
		}
		q := *p
		q.Architectures = nil
		differ(t, &q, a.name, 1)
	}
}

func TestOperators(t *testing.T) {
	for _, op := range Operators() {
		for _, value := range []uint64{0, 5, 0xffffffff, 1 << 32, 1<<32 + 5, 1<<64 - 1} {
			p := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{
				Names: []string{"getpid"}, Action: specs.ActTrap,
				Args: []specs.LinuxSeccompArg{{Index: 3, Value: value, ValueTwo: value & 5, Op: specs.LinuxSeccompOperator(op)}, {Index: 1, Value: value, Op: specs.OpNotEqual}},
			}}}
			differ(t, p, specs.ArchX86_64, 2)
			differ(t, p, specs.ArchS390X, 2)
			differ(t, p, specs.ArchX86, 2)
		}
	}
}

// large makes a profile with conditions for n calls, each with a verdict of its own:
// jumps go further than a conditional one reaches.
func large(n int) *specs.LinuxSeccomp {
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86}}
	for i := range n {
		errno := uint(i + 1)
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{
			Names: []string{table[i%len(table)].name}, Action: specs.ActErrno, ErrnoRet: &errno,
			Args: []specs.LinuxSeccompArg{{Index: uint(i % 6), Value: uint64(i) << 20, Op: specs.OpGreaterThan}, {Index: uint(i+1) % 6, Value: 1, Op: specs.OpNotEqual}},
		})
	}
	return p
}

// largest returns the largest of those that the kernel takes.
func largest(t testing.TB) *specs.LinuxSeccomp {
	t.Helper()
	n := 0
	for {
		if _, err := compile(large(n+1), specs.ArchX86_64); err != nil {
			if !strings.Contains(err.Error(), "4096") {
				t.Fatal(err)
			}
			return large(n)
		}
		n++
	}
}

// TestLargest fills a program up to BPF_MAXINSNS.
func TestLargest(t *testing.T) {
	p := largest(t)
	program, err := compile(p, specs.ArchX86_64)
	if err != nil || len(program) < maxInstructions-50 {
		t.Errorf("%d instructions, %v", len(program), err)
	}
	differ(t, p, specs.ArchX86_64, 2)
}

func TestRefused(t *testing.T) {
	call := func(s specs.LinuxSyscall) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{s}}
	}
	big := uint(1 << 20)
	for _, c := range []struct {
		want string
		p    *specs.LinuxSeccomp
	}{
		{"defaultAction", &specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_MAYBE"}},
		{"syscalls[0].names", call(specs.LinuxSyscall{Action: specs.ActErrno})},
		{"syscalls[0].action", call(specs.LinuxSyscall{Names: []string{"read"}})},
		{"syscalls[0].args[0].index", call(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}})},
		{"syscalls[0].args[0].op", call(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{}}})},
		{"errnoRet", call(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno, ErrnoRet: &big})},
		{"listenerPath", call(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActNotify})},
		{"listenerMetadata", &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerMetadata: "x"}},
		{"4096 instructions", large(5000)},
		{"flags[0]", &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"X"}}},
		{"architectures[0]", &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{"vax"}}},
	} {
		if _, err := Compile(c.p); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v; want an error about %s", err, c.want)
		}
	}
}

func TestTableIsSorted(t *testing.T) {
	for i := 1; i < len(table); i++ {
		if table[i-1].name >= table[i].name {
			t.Errorf("%s before %s", table[i-1].name, table[i].name)
		}
	}
	a := archOf(specs.ArchX86_64)
	for name, nr := range map[string]uint32{"read": 0, "execve": 59, "openat2": 437, "execveat": 322} {
		if got, ok := a.number(rowOf(name)); !ok || got != nr {
			t.Errorf("%s = %d, %v; want %d", name, got, ok, nr)
		}
	}
}

// FuzzCompile feeds profiles to the compiler: it must refuse or give a valid
// program that means the same.
func FuzzCompile(f *testing.F) {
	// Small ones: the fuzzer spends its time shortening long ones.
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_KILL","architectures":["SCMP_ARCH_X86","SCMP_ARCH_X32"],"syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_GT"}]}]}`), uint8(0))
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["socket","ipc"],"action":"SCMP_ACT_ERRNO","errnoRet":1},{"names":["clone"],"action":"SCMP_ACT_LOG","args":[{"index":1,"value":7,"valueTwo":3,"op":"SCMP_CMP_MASKED_EQ"}]}]}`), uint8(16))
	f.Fuzz(func(t *testing.T, raw []byte, n uint8) {
		p := &specs.LinuxSeccomp{}
		if json.Unmarshal(raw, p) != nil {
			return
		}
		native := arches()[int(n)%len(arches())]
		program, err := compile(p, native.name)
		if err != nil || program == nil {
			return
		}
		m, r := boot(t, program), rand.New(rand.NewPCG(3, 4))
		for _, name := range append([]specs.Arch{native.name}, p.Architectures...) {
			a := archOf(name)
			meant, numbers := meaningOf(p, a), numbersOf(&a)
			for range 200 {
				d := data{nr: numbers[r.IntN(len(numbers))], arch: a.audit}
				for i := range d.args {
					d.args[i] = interesting(r, p)
				}
				if got, exp := m.run(t, d, a.big), meant.of(d); got != exp {
					t.Fatalf("%s call %d %x: %#x, the profile means %#x", name, d.nr, d.args, got, exp)
				}
			}
		}
	})
}

func BenchmarkCompileDefault(b *testing.B) {
	p := defaultProfile(b)
	for b.Loop() {
		if _, err := Compile(p); err != nil {
			b.Fatal(err)
		}
	}
}
