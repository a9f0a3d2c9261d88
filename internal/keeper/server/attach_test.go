package server_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/keeper"
)

// megabytes writes n MiB of numbered lines.
func megabytes(n int) string { return fmt.Sprintf("yes 0123456789abcde | head -c %d", n<<20) }

// TestSlowClient: a client that does not read costs the process nothing, and
// learns that it was cut off.
// TestEphemeralGoes expects that nobody has to forget a command of an exec.
func TestEphemeralGoes(t *testing.T) {
	w := newWorld(t)
	p := w.shell("p", "echo out; exit 3")
	p.Log, p.Ephemeral = nil, true
	_, a, err := w.c.StartAttached(w.ctx, p, keeper.AttachOptions{Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	out, _, exit, err := collect(w.ctx, a)
	if err != nil || out != "out\n" || exit.Code != 3 {
		t.Errorf("%q, %+v, %v", out, exit, err)
	}
	if list, err := w.c.List(w.ctx); err != nil || len(list) != 0 {
		t.Errorf("listed after its end was told: %+v, %v", list, err)
	}
}

func TestSlowClient(t *testing.T) {
	w := newWorld(t)
	p := w.shell("p", megabytes(8))
	p.Log = nil
	_, a, err := w.c.StartAttached(w.ctx, p, keeper.AttachOptions{Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	w.wait("p") // although nobody reads
	out, _, _, err := collect(w.ctx, a)
	if !api.IsKind(err, api.Exhausted) {
		t.Errorf("error = %v after %d bytes", err, len(out))
	}
	if len(out) < keeper.ClientBuffer/2 || len(out) > 4*keeper.ClientBuffer {
		t.Errorf("%d bytes came before the cut", len(out))
	}
}

// TestPatientProcess: a client that wants all of the output gets it, however
// slow it is.
func TestPatientProcess(t *testing.T) {
	w := newWorld(t)
	p := w.shell("p", megabytes(8))
	p.Log = nil
	_, a, err := w.c.StartAttached(w.ctx, p, keeper.AttachOptions{Stdout: true, Wait: true})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	st, err := w.c.Status(w.ctx, "p")
	if err != nil || st.Exit != nil {
		t.Errorf("status = %+v, %v", st, err)
	}
	out, _, exit, err := collect(w.ctx, a)
	if err != nil || exit.Code != 0 || len(out) != 8<<20 || strings.Count(out, "0123456789abcde\n") != 8<<20/16 {
		t.Errorf("%d bytes, %+v, %v", len(out), exit, err)
	}
}

// TestPatientProcessEnds: neither a client that never reads nor one that goes
// away keeps the process from ending or being seen to end.
func TestPatientProcessEnds(t *testing.T) {
	w := newWorld(t)
	p := w.shell("p", "yes")
	p.Log = nil
	_, stuck, err := w.c.StartAttached(w.ctx, p, keeper.AttachOptions{Stdout: true, Wait: true})
	if err != nil {
		t.Fatal(err)
	}
	defer stuck.Close()
	if err := w.c.Signal(w.ctx, "p", unix.SIGKILL); err != nil {
		t.Error(err)
	}
	w.wait("p")
	p = w.shell("q", megabytes(4))
	_, leaver, err := w.c.StartAttached(w.ctx, p, keeper.AttachOptions{Stdout: true, Wait: true})
	if err != nil {
		t.Fatal(err)
	}
	leaver.Close()
	w.wait("q")
}

// TestManyClients attaches and leaves often: the keeper keeps no descriptor
// and no goroutine of a client that has gone.
func TestManyClients(t *testing.T) {
	w := newWorld(t)
	w.start(w.shell("p", "exec sleep 1000"))
	fds := func() int {
		list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", w.keeperPID()))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	goroutines := func() int {
		info, err := w.c.Ping(w.ctx)
		if err != nil {
			t.Fatal(err)
		}
		return info.Goroutines
	}
	before, goroutinesBefore := fds(), goroutines()
	for range 300 {
		a, err := w.c.Attach(w.ctx, "p", keeper.AttachOptions{Stdin: true, Stdout: true})
		if err != nil {
			t.Fatal(err)
		}
		a.Close()
	}
	w.eventually("all descriptors are closed", func() bool { return fds() <= before })
	w.eventually("all goroutines have ended", func() bool { return goroutines() <= goroutinesBefore })
	if st, err := w.c.Status(w.ctx, "p"); err != nil || st.Clients != 0 {
		t.Errorf("status = %+v, %v", st, err)
	}
}

// TestDiskFull: a full log disk does not stop the process; the log says what
// it lacks once there is room.
func TestDiskFull(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(w.run, "small")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 128<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	gate := filepath.Join(w.run, "gate")
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	// Long lines: what is still in the pipe when there is room again must not
	// fill the disk anew with its times and tags.
	p := w.shell("p", "yes $(printf %01999d 7) | head -c 1024000; read x < "+gate+"; echo there is room; exit 6")
	p.Log.Path = filepath.Join(dir, "log")
	w.start(p)
	var st keeper.Status
	w.eventually("bytes are dropped", func() bool {
		var err error
		if st, err = w.c.Status(w.ctx, "p"); err != nil {
			t.Fatal(err)
		}
		return st.LogDropped > 0
	})
	f, err := os.OpenFile(gate, os.O_WRONLY, 0) // opens once the process has written all
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	f.WriteString("go\n")
	f.Close()
	if exit := w.wait("p"); exit.Code != 6 {
		t.Errorf("exit = %+v", exit)
	}
	data, err := os.ReadFile(p.Log.Path)
	if err != nil {
		t.Fatal(err)
	}
	log := string(data)
	if st, err = w.c.Status(w.ctx, "p"); err != nil || st.LogError != "" || !strings.Contains(log, " F there is room\n") {
		t.Errorf("status %+v, %v, end of log: %q", st, err, log[max(0, len(log)-500):])
	}
	// The disk may have had room for a small write in between: what matters
	// is that every dropped byte is told of once.
	said := int64(0)
	for _, notice := range strings.Split(log, "[berth: ")[1:] {
		var n int64
		fmt.Sscanf(notice, "%d bytes of output were not logged: ", &n)
		said += n
	}
	if said == 0 || said != st.LogDropped {
		t.Errorf("the log tells of %d dropped bytes, the status of %d", said, st.LogDropped)
	}
	for line := range strings.Lines(log) {
		if !strings.HasSuffix(line, "000000007\n") && !strings.Contains(line, "room") && !strings.Contains(line, "[berth: ") {
			t.Errorf("torn line %q", line)
		}
	}
}

// TestZombies: what kept processes leave behind is reaped, and the keeper has
// no child left that has ended.
func TestZombies(t *testing.T) {
	w := newWorld(t)
	w.start(w.shell("p", "for i in 1 2 3 4 5; do (setsid sleep 0.05 &) ; done"))
	w.wait("p")
	keeperPID := w.keeperPID()
	w.eventually("all strays are reaped", func() bool {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", keeperPID, keeperPID))
		return err == nil && len(strings.Fields(string(data))) == 0
	})
}

// TestMemory holds the promise of SPECIFICATION.md: what 200 kept processes
// cost.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("starts 200 processes")
	}
	w := newWorld(t)
	const n = 200
	start := rss(t, w.keeperPID())
	for i := range n {
		id := fmt.Sprintf("p%d", i)
		p := w.shell(id, "")
		p.Args = []string{"/bin/sleep", "1000"}
		w.start(p)
		go w.c.Wait(w.ctx, id)
	}
	per := 0
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-time.After(100 * time.Millisecond) {
		if per = (rss(t, w.keeperPID()) - start) / n; per <= 40 {
			break
		}
	}
	if per > 40 {
		t.Errorf("a kept process costs %d kB", per)
	}
	t.Logf("keeper of the test binary: %d kB empty, %d kB for each of %d kept processes", start, per, n)
}

func rss(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	var kb int
	for line := range strings.Lines(string(data)) {
		if n, _ := fmt.Sscanf(line, "Rss: %d kB", &kb); n == 1 {
			return kb
		}
	}
	t.Fatal("no Rss")
	return 0
}
