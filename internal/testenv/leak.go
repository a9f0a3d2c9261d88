package testenv

import (
	"bufio"
	"fmt"
	"maps"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// leakGrace is how long what a test has ended may take to go away: the kernel
// tears down network namespaces and cgroups after the fact.
const leakGrace = 5 * time.Second

// Check fails the test if it leaves anything behind; see the package comment
// for what counts. It is called first in a test, so that it runs after every
// other cleanup.
//
//	func TestCreate(t *testing.T) {
//		testenv.Check(t)
//		…
func Check(t testing.TB) {
	t.Helper()
	check(t, scope{owns: owns(t), token: Token(t)})
}

// CheckOwn is Check for a test that runs in parallel with others: it looks at what bears
// the test's name, and leaves the process they share to Main.
func CheckOwn(t testing.TB) {
	t.Helper()
	check(t, scope{owns: owns(t), token: Token(t), shared: true})
}

func check(t testing.TB, scope scope) {
	t.Helper()
	mark()
	before := scope.take()
	t.Cleanup(func() {
		for _, leak := range scope.settle(before) {
			t.Errorf("the test left behind: %s", leak)
		}
	})
}

// Main runs the tests of a package and then checks this process as a whole:
// goroutines, file descriptors, processes. It is for packages whose tests run
// in parallel.
//
//	func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }
func Main(m *testing.M) int {
	mark()
	scope := scope{owns: func(string) bool { return false }}
	before := scope.take()
	code := m.Run()
	if code != 0 {
		return code
	}
	runtime.GC() // closes what a library leaves to it: containerd's probe for fs-verity
	for _, leak := range scope.settle(before) {
		fmt.Fprintln(os.Stderr, "the tests left behind:", leak)
		code = 1
	}
	return code
}

// scope tells what is the test's own.
type scope struct {
	owns   func(text string) bool // names a directory of the test
	token  string                 // part of the names it gives; "" in Main
	shared bool                   // others run in this process
}

// residue is what exists at one moment: a key that is unique on the machine,
// and a description.
type residue map[string]string

// settle waits until nothing exists that before lacks, and returns what still
// does after leakGrace.
func (s scope) settle(before residue) []string {
	deadline := time.Now().Add(leakGrace)
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		http.DefaultClient.CloseIdleConnections()
		after := s.take()
		maps.DeleteFunc(after, func(key, _ string) bool { _, ok := before[key]; return ok })
		if len(after) == 0 || time.Now().After(deadline) {
			return slices.Sorted(maps.Values(after))
		}
		time.Sleep(pause)
	}
}

// take looks at everything. What cannot be read is not there.
func (s scope) take() residue {
	r := residue{}
	if !s.shared {
		s.goroutines(r)
		s.files(r)
	}
	s.processes(r)
	s.mounts(r)
	s.loops(r)
	if s.token != "" {
		s.named(r)
	}
	return r
}

// quiet are functions whose goroutines live as long as the process, or belong
// to the test runner.
var quiet = []string{
	"testing.(*T).Run(", "testing.tRunner(", "testing.(*M).", "testing.runTests(", "testing.(*F).Fuzz",
	"os/signal.signal_recv(", "os/signal.loop(", "runtime.ensureSigM", "runtime/pprof.",
	"testenv.scope.goroutines(",
}

func (s scope) goroutines(r residue) {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	for stack := range strings.SplitSeq(string(buf), "\n\n") {
		if slices.ContainsFunc(quiet, func(f string) bool { return strings.Contains(stack, f) }) {
			continue
		}
		id, rest, ok := strings.Cut(stack, " [") // "goroutine 17 [running]:"
		if ok {
			r[id] = id + " [" + rest
		}
	}
}

// lines calls f for each line of a file of the kernel; a file that cannot be
// read has none.
func lines(path string, f func(string)) {
	file, err := os.Open(path)
	if err != nil {
		return
	}
	defer file.Close()
	for scan := bufio.NewScanner(file); scan.Scan(); {
		f(scan.Text())
	}
}
