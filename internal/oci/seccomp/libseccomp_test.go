package seccomp

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/bits"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// library is a process that compiles with libseccomp.
type library struct {
	t       testing.TB
	process *os.Process
	in      io.Writer
	out     *bufio.Reader
	// numbers of calls by architecture and name, negative for none, as libseccomp
	// knows them
	numbers map[specs.Arch]map[string]int32
}

// startLibrary starts it. It ends with the test.
func startLibrary(t testing.TB) *library {
	t.Helper()
	if exec.Command("/usr/bin/python3", "-c", "import seccomp").Run() != nil {
		t.Skip("needs python3-seccomp")
	}
	cmd := exec.Command("/usr/bin/python3", "testdata/libseccomp.py")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("libseccomp.py: %v", err)
		}
	})
	l := &library{t: t, process: cmd.Process, in: in, out: bufio.NewReader(out)}
	names, list := []string{}, []specs.Arch{}
	for i := range table {
		names = append(names, table[i].name)
	}
	for _, a := range arches() {
		list = append(list, a.name)
	}
	l.ask(map[string]any{"names": names, "arches": list}, &l.numbers)
	return l
}

func (l *library) ask(request, answer any) {
	l.t.Helper()
	raw, err := json.Marshal(request)
	if err != nil {
		l.t.Fatal(err)
	}
	// libseccomp does not always end.
	defer time.AfterFunc(10*time.Second, func() { _ = l.process.Kill() }).Stop()
	if _, err := l.in.Write(append(raw, '\n')); err != nil {
		l.t.Fatal(err)
	}
	line, err := l.out.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, answer)
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

// action is a verdict as the script wants it.
type action struct {
	Name string `json:"name"`
	Data uint32 `json:"data"`
}

func actionOf(ret uint32) action {
	names := map[uint32]string{
		unix.SECCOMP_RET_KILL_THREAD: "kill", unix.SECCOMP_RET_KILL_PROCESS: "kill process", unix.SECCOMP_RET_TRAP: "trap",
		unix.SECCOMP_RET_ERRNO: "errno", unix.SECCOMP_RET_TRACE: "trace", unix.SECCOMP_RET_ALLOW: "allow",
		unix.SECCOMP_RET_LOG: "log", unix.SECCOMP_RET_USER_NOTIF: "notify",
	}
	return action{names[ret&unix.SECCOMP_RET_ACTION_FULL], ret & unix.SECCOMP_RET_DATA}
}

// request is one call's rule as the script wants it.
type request struct {
	Call   string                  `json:"call"`
	Action action                  `json:"action"`
	Args   []specs.LinuxSeccompArg `json:"args"`
}

// compile lets libseccomp compile a profile as runc does: rules that repeat the
// default action are left out, libseccomp refuses them.
func (l *library) compile(p *specs.LinuxSeccomp, list []specs.Arch) []Instruction {
	l.t.Helper()
	def, _ := verdict(p.DefaultAction, p.DefaultErrnoRet)
	rules, verdicts := []request{}, []uint32{def, unix.SECCOMP_RET_KILL_THREAD}
	for _, s := range p.Syscalls {
		ret, _ := verdict(s.Action, s.ErrnoRet)
		if ret == def {
			continue
		}
		verdicts = append(verdicts, ret)
		conds := [][]specs.LinuxSeccompArg{s.Args}
		if repeats(s.Args) {
			conds = slices.Collect(slices.Chunk(s.Args, 1))
		}
		for _, name := range s.Names {
			for _, c := range conds {
				rules = append(rules, request{name, actionOf(ret), append([]specs.LinuxSeccompArg{}, c...)})
			}
		}
	}
	var answer struct {
		Program string
		Refused []string
	}
	l.ask(map[string]any{"default": actionOf(def), "arches": list, "rules": rules}, &answer)
	raw, err := hex.DecodeString(answer.Program)
	if err != nil {
		l.t.Fatal(err)
	}
	if len(answer.Refused) > 0 {
		return nil
	}
	program := decode(raw, archOf(list[0]).big, verdicts)
	if !loadsNumbers(program, list) {
		return nil
	}
	return program
}

// loadsNumbers reports whether each architecture's part of a program loads the
// call's number before it compares. libseccomp 2.5.4 forgets to where the call that
// comes first in its order does not exist on the architecture.
func loadsNumbers(program []Instruction, list []specs.Arch) bool {
	parts, loads := map[uint32]bool{}, 0
	for _, name := range list {
		parts[archOf(name).audit] = true
	}
	for _, in := range program {
		if in.Code == unix.BPF_LD|unix.BPF_W|unix.BPF_ABS && in.K == offNumber {
			loads++
		}
	}
	return loads >= len(parts)
}

// decode reads what libseccomp has written, in the byte order of the architecture.
// Where that is not its own it forgets to turn some of the verdicts round (2.5.4).
func decode(raw []byte, big bool, verdicts []uint32) (program []Instruction) {
	order := binary.ByteOrder(binary.LittleEndian)
	if big {
		order = binary.BigEndian
	}
	for i := range slices.Chunk(raw, 8) {
		in := Instruction{order.Uint16(i), i[2], i[3], order.Uint32(i[4:])}
		if turned := bits.ReverseBytes32(in.K); in.Code == unix.BPF_RET && !slices.Contains(verdicts, in.K) && slices.Contains(verdicts, turned) {
			in.K = turned
		}
		program = append(program, in)
	}
	return program
}

// difference is a call about which two programs disagree.
type difference struct {
	arch         *arch
	call         string // its name, or ""
	data         data
	mine, theirs uint32
}

func (d *difference) String() string {
	return fmt.Sprintf("%s %s (%d) %x: %#x, libseccomp %#x", d.arch.name, d.call, d.data.nr, d.data.args, d.mine, d.theirs)
}

// Why libseccomp, and so runc and crun, come to another verdict. Everything else is
// a failure.
const (
	// The profile was written before the call, or libseccomp was.
	newerThanProfile = "call is newer than the profile: ENOSYS instead of the default action"
	newerThanLibrary = "call is newer than libseccomp, which leaves it out"
	// Berth takes the special before the general, libseccomp the general alone.
	plainWins = "the rule without conditions hides those with"
	// libseccomp refuses rules that repeat the default action, runc and crun leave
	// them out: what such a rule exempts from another one is not exempt.
	repeatsDefault = "a rule that repeats the default action is left out"
	// A condition on an argument of socket(2) says nothing about what socketcall(2)
	// has in that place. libseccomp compares it all the same.
	multiplexed = "conditions are carried over to socketcall and ipc"
	// libseccomp has one number, -10191, for both where the native architecture has
	// neither.
	confused = "switch_endian and sys_debug_setcontext are mixed up"
)

// compare runs both programs for every number of the architectures, and tells of
// each difference. It returns false where libseccomp gives no program to compare with.
func (l *library) compare(p *specs.LinuxSeccomp, list []specs.Arch, r *rand.Rand, rounds int, differs func(*difference)) bool {
	l.t.Helper()
	q := *p
	q.Architectures = list
	program, err := compile(&q, list[0])
	if err != nil {
		l.t.Fatal(err)
	}
	reference := l.compile(p, list)
	if program == nil || reference == nil {
		return false
	}
	mine, theirs := boot(l.t, program), boot(l.t, reference)
	for _, name := range list {
		a := archOf(name)
		names := map[uint32]string{}
		for _, row := range order[a.column] {
			nr, _ := a.number(int(row))
			names[nr] = table[row].name
		}
		for _, nr := range numbersOf(&a) {
			for range rounds {
				d := data{nr: nr, arch: a.audit}
				for i := range d.args {
					d.args[i] = interesting(r, p)
				}
				if m, t := mine.run(l.t, d, a.big), theirs.run(l.t, d, a.big); m != t {
					differs(&difference{&a, names[nr], d, m, t})
				}
			}
		}
	}
	return true
}

// explain says why a verdict of libseccomp differs, or "".
func (l *library) explain(p *specs.LinuxSeccomp, d *difference) string {
	m := meaningOf(p, *d.arch)
	var plain, conditional, held []uint32 // of the rules that libseccomp has
	add := func(name string) {
		for _, s := range p.Syscalls {
			ret, _ := verdict(s.Action, s.ErrnoRet)
			switch {
			case !slices.Contains(s.Names, name) || ret == m.def:
			case len(s.Args) == 0:
				plain = append(plain, ret)
			default:
				conditional = append(conditional, ret)
			}
		}
	}
	add(d.call)
	for _, s := range m.rules[d.data.nr] {
		if holds(*d.arch, s.conds, d.data) {
			held = append(held, s.ret)
		}
	}
	switch {
	case d.mine == unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS) && d.data.nr >= m.known && d.theirs == m.def:
		return newerThanProfile
	case l.numbers[d.arch.name][d.call] < 0 && d.theirs == m.def:
		return newerThanLibrary
	case len(conditional) > 0 && slices.Contains(plain, d.theirs):
		return plainWins
	case d.call == "switch_endian" || d.call == "sys_debug_setcontext":
		return confused
	case d.mine == m.def && len(held) > 1 && held[0] == m.def && slices.Contains(held, d.theirs):
		return repeatsDefault
	}
	for _, mux := range multiplexers {
		if mux.name != d.call {
			continue
		}
		for _, lead := range mux.leads {
			add(lead)
		}
		if len(conditional) > 0 && (d.theirs == m.def || slices.Contains(plain, d.theirs) || slices.Contains(conditional, d.theirs)) {
			return multiplexed
		}
	}
	return ""
}

// archLists are the architectures to compare with libseccomp: those that it has one
// by one, and what is listed together on a machine.
func (l *library) archLists() (lists [][]specs.Arch) {
	for _, a := range arches() {
		if _, ok := l.numbers[a.name]; ok {
			lists = append(lists, []specs.Arch{a.name})
		}
	}
	return append(lists,
		[]specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32},
		[]specs.Arch{specs.ArchAARCH64, specs.ArchARM},
		[]specs.Arch{specs.ArchS390X, specs.ArchS390},
		[]specs.Arch{specs.ArchMIPSEL64, specs.ArchMIPSEL64N32, specs.ArchMIPSEL})
}

// check compares one profile and fails the test for what it cannot explain. It
// counts what it can.
func (l *library) check(p *specs.LinuxSeccomp, list []specs.Arch, r *rand.Rand, rounds int, counts map[string]int) bool {
	l.t.Helper()
	return l.compare(p, list, r, rounds, func(d *difference) {
		l.t.Helper()
		why := l.explain(p, d)
		counts[why]++
		if why == "" && counts[""] < 5 {
			raw, _ := json.Marshal(p)
			l.t.Errorf("%v; no reason known; %s", d, raw)
		}
	})
}

// TestTableIsLibseccomps compares the numbers of all calls.
func TestTableIsLibseccomps(t *testing.T) {
	l := startLibrary(t)
	for _, a := range arches() {
		muxed := map[int32]bool{}
		for _, mux := range multiplexers {
			if nr, ok := a.number(rowOf(mux.name)); ok {
				muxed[int32(nr)] = true // what libseccomp answers for calls that it leads to
			}
		}
		for name, theirs := range l.numbers[a.name] {
			if mine, ok := a.number(rowOf(name)); theirs >= 0 && !muxed[theirs] && (!ok || mine != uint32(theirs)) {
				t.Errorf("%s %s: %d, libseccomp %d", a.name, name, mine, theirs)
			}
		}
	}
}

// TestDefaultProfileAgainstLibseccomp compares moby's default profile. Only calls
// that libseccomp does not know, and such that the profile does not know, differ.
func TestDefaultProfileAgainstLibseccomp(t *testing.T) {
	l, counts := startLibrary(t), map[string]int{}
	for _, list := range l.archLists() {
		if !l.check(defaultProfile(t), list, rand.New(rand.NewPCG(1, 2)), 2, counts) {
			t.Errorf("%s: not compared", list)
		}
	}
	for why := range counts {
		if why != newerThanProfile && why != newerThanLibrary {
			t.Errorf("differs because %s", why)
		}
	}
	t.Log(counts)
}

// TestRandomProfilesAgainstLibseccomp compares seeded random profiles.
func TestRandomProfilesAgainstLibseccomp(t *testing.T) {
	l, counts, skipped := startLibrary(t), map[string]int{}, 0
	lists, n := l.archLists(), 400
	if testing.Short() {
		n = 40
	}
	for i := range n {
		r := rand.New(rand.NewPCG(uint64(i), 3))
		if !l.check(randomProfile(r), lists[i%len(lists)], r, 3, counts) {
			skipped++
		}
	}
	t.Logf("%d of %d profiles not compared; differences explained: %v", skipped, n, counts)
	if skipped > n/5 {
		t.Errorf("%d of %d profiles are not compared", skipped, n)
	}
}

// FuzzAgainstLibseccomp looks for seeds with a difference.
func FuzzAgainstLibseccomp(f *testing.F) {
	library := startLibrary(f)
	for i := range uint64(4) {
		f.Add(i)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		l, r := *library, rand.New(rand.NewPCG(seed, 4))
		l.t = t
		lists := l.archLists()
		l.check(randomProfile(r), lists[r.IntN(len(lists))], r, 3, map[string]int{})
	})
}

// randomProfile makes a profile of few calls, so that entries meet, within what
// libseccomp 2.5.4 can do: of several rules for a call it makes one tree of
// conditions, in which it does not find the way back from a rule that holds only
// half, loses the load of the call's number, or does not end. So a call has
// conditions in one entry at most, and about different arguments; or values of one
// argument, as moby's profile has for personality.
func randomProfile(r *rand.Rand) *specs.LinuxSeccomp {
	pool := []string{"read", "write", "clone", "ioctl", "mmap", "mmap2", "personality", "no_such_call", "clone3", "mseal", "cacheflush"}
	if r.IntN(2) == 0 {
		pool = append(pool, "socket", "bind", "accept", "semop", "shmat")
	} else {
		pool = append(pool, "socketcall", "ipc")
	}
	for range 6 {
		pool = append(pool, table[r.IntN(len(table))].name)
	}
	p := &specs.LinuxSeccomp{ListenerPath: "/agent"}
	p.DefaultAction, p.DefaultErrnoRet = randomAction(r)
	for _, conditional := range []bool{true, false} {
		left := slices.Clone(pool)
		for range 1 + r.IntN(4) {
			s := specs.LinuxSyscall{}
			s.Action, s.ErrnoRet = randomAction(r)
			for range 1 + r.IntN(3) {
				name := left[r.IntN(len(left))]
				s.Names = append(s.Names, name)
				left = slices.DeleteFunc(left, func(n string) bool { return n == name })
			}
			if conditional {
				s.Args = randomArgs(r)
			}
			p.Syscalls = append(p.Syscalls, s)
		}
	}
	r.Shuffle(len(p.Syscalls), func(i, j int) { p.Syscalls[i], p.Syscalls[j] = p.Syscalls[j], p.Syscalls[i] })
	return p
}

func randomAction(r *rand.Rand) (specs.LinuxSeccompAction, *uint) {
	errno := uint(r.IntN(3)) * 38
	switch a := specs.LinuxSeccompAction(Actions()[r.IntN(len(Actions()))]); a {
	case specs.ActErrno, specs.ActTrace:
		return a, &errno
	default:
		return a, nil
	}
}

func randomArgs(r *rand.Rand) (args []specs.LinuxSeccompArg) {
	number := func() uint64 {
		values := []uint64{0, 1, 2, 3, 40, 0xff, 0x7e020000, 0xffffffff, 1 << 32, 1<<32 + 5, 1 << 63, 1<<64 - 1}
		return values[r.IntN(len(values))]
	}
	indices := r.Perm(6)
	if r.IntN(4) == 0 {
		for i := range uint64(2 + r.IntN(3)) {
			args = append(args, specs.LinuxSeccompArg{Index: uint(indices[0]), Op: specs.OpEqualTo, Value: number()&^7 | i})
		}
		return args
	}
	for _, index := range indices[:1+r.IntN(3)] {
		op := specs.LinuxSeccompOperator(Operators()[r.IntN(len(Operators()))])
		args = append(args, specs.LinuxSeccompArg{Index: uint(index), Op: op, Value: number(), ValueTwo: number()})
	}
	return args
}
