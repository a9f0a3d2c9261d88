package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/testenv"
)

// badInputScenarios are what users get wrong. Each gets one line that names
// the thing, the cause and the way out, and leaves nothing behind: play looks
// for instances after each, the leak check for everything else.
var badInputScenarios = []scenario{
	{"refused at once", everywhere, both, refusedAtOnce},
	{"no such command", everywhere, both, noSuchCommand},
	{"names", everywhere, nil, names},
	{"daemon", realOnly, nil, daemonErrors},
	{"archives", localOnly, nil, badArchives},
	{"interrupt", localOnly, both, interrupt},
	{"disk full", localOnly, nil, diskFull},
}

func refusedAtOnce(t *testing.T, w *world, kind api.Kind) {
	tests := []struct {
		what  string
		args  []string
		exit  int
		words []string
	}{
		{"unknown image", []string{"--pull=never", "nowhere/nothing:1"}, 125, []string{"nowhere/nothing:1"}},
		{"bad image name", []string{"UPPER:case:twice"}, 125, []string{"UPPER:case:twice"}},
		{"unreachable registry", []string{"127.0.0.1:1/x"}, 125, []string{"127.0.0.1:1"}},
		{"bad memory", []string{"-m", "lots", "base"}, 125, []string{"lots"}},
		{"too little memory", []string{"-m", "1k", "base"}, 125, []string{"memory"}},
		{"more than the host has", []string{"-m", "100t", "base"}, 125, []string{"memory"}},
		{"bad volume", []string{"-v", "relative/path:/x", "base"}, 125, []string{"relative/path"}},
		{"source that is not there", []string{"--mount", "type=bind,source=/no/such,target=/x", "base"}, 125, []string{"/no/such"}},
		{"relative target", []string{"-v", "vol:x", "base"}, 125, []string{"x"}},
		{"bad port", []string{"-p", "70000:80", "base"}, 125, []string{"70000"}},
		{"bad variable", []string{"-e", "=x", "base"}, 125, []string{"=x"}},
		{"unknown network", []string{"--network", "moon", "base"}, 125, []string{"moon"}},
		{"bad restart policy", []string{"--restart", "sometimes", "base"}, 125, []string{"sometimes"}},
		{"unknown flag", []string{"--no-such-flag", "base"}, 125, []string{"--no-such-flag", "--help"}},
	}
	for _, test := range tests {
		refused(t, test.what, w.Try(t.Context(), run(kind, append([]string{"--rm"}, test.args...)...)...), test.exit, test.words...)
	}
}

func noSuchCommand(t *testing.T, w *world, kind api.Kind) {
	for _, flags := range [][]string{{"--rm"}, {"-d", "--name", "box"}, {}} {
		args := func(command string) []string {
			return run(kind, append(append([]string{}, flags...), "base", command)...)
		}
		refused(t, "not there", w.Try(t.Context(), args("no-such-command")...), 127, "no-such-command")
		w.removeAll(t)
		refused(t, "not executable", w.Try(t.Context(), args("/etc/passwd")...), 126, "/etc/passwd")
		w.removeAll(t)
	}
}

// removeAll removes what a failed start has left on purpose: without --rm the
// instance stays, so that one can look at it.
func (w *world) removeAll(t *testing.T) {
	t.Helper()
	if left := strings.Fields(w.Berth(t, "ps", "-a", "-q")); len(left) > 0 {
		w.Berth(t, append([]string{"rm", "-f"}, left...)...)
	}
}

func names(t *testing.T, w *world, _ api.Kind) {
	w.start(t, api.Container, "taken", "base", "sleep", "600")
	refused(t, "name in use", w.Try(t.Context(), run(api.Container, "--name", "taken", "base")...), 125, "taken")
	refused(t, "bad name", w.Try(t.Context(), run(api.Container, "--name", "a b", "base")...), 125, "a b")
	for _, command := range [][]string{
		{"start"}, {"stop"}, {"kill"}, {"restart"}, {"pause"}, {"unpause"}, {"logs"}, {"inspect"}, {"wait"},
		{"top"}, {"rm"}, {"stats", "--no-stream"}, {"update", "--cpus", "1"}, {"explain"},
	} {
		refused(t, command[0], w.Try(t.Context(), append(command, "nobody")...), 1, "nobody")
	}
	refused(t, "exec", w.Try(t.Context(), "exec", "nobody", "true"), 125, "nobody")
	refused(t, "image rm", w.Try(t.Context(), "image", "rm", "nothing"), 1, "nothing")
	refused(t, "image in use", w.Try(t.Context(), "image", "rm", "base"), 1, "base", "taken")
}

func daemonErrors(t *testing.T, w *world, _ api.Kind) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	berth := w.Machine.Programs() + "/berth"
	r := w.Machine.Do(ctx, testenv.Command{Argv: []string{berth, "-H", "unix:///no/such.sock", "ps"}})
	refused(t, "no daemon", r, 1, "/no/such.sock", "berthd")
	// nobody is 65534 on Debian and may not use the socket.
	r = w.Machine.Do(ctx, testenv.Command{Argv: []string{"setpriv", "--reuid=65534", "--clear-groups", berth, "-H", "unix://" + w.Socket(), "ps"}})
	if r.Exit == 0 {
		t.Errorf("everybody may use the socket: %s", r)
	}
	argv := []string{w.Machine.Programs() + "/berthd", "--root", w.Dir + "/root", "--run", w.RunDir(), "--socket", w.Socket()}
	r = w.Machine.Do(ctx, testenv.Command{Argv: argv})
	if r.Exit == 0 || r.Err != nil || !strings.Contains(r.Stderr, "another berthd") {
		t.Errorf("a second daemon in the same directory: %s", r)
	}
}

func badArchives(t *testing.T, w *world, _ api.Kind) {
	dir := w.Machine.Temp()
	bad := []struct{ what, make string }{
		{"empty", ": >F"},
		{"no archive", "head -c 100000 /dev/urandom >F"},
		{"truncated", "berthx() { :; }; tar cf G /etc/passwd /etc/group /bin/busybox 2>/dev/null; head -c 5000 G >F; rm G"},
	}
	for _, b := range bad {
		file := dir + "/bad.tar"
		testenv.Shell(t, w.Machine, "cd "+dir+" && "+strings.NewReplacer("F", file, "G", file+".whole").Replace(b.make))
		refused(t, b.what, w.Try(t.Context(), "image", "import", "-q", file, "bad"), 1, "bad")
		if list := w.Berth(t, "images", "--format", "{{.Name}}"); strings.Contains(list, "bad") {
			t.Errorf("%s: it became an image: %s", b.what, list)
		}
	}
	refused(t, "no file", w.Try(t.Context(), "image", "import", "-q", "/no/such.tar", "bad"), 1, "/no/such.tar")
}

func interrupt(t *testing.T, w *world, kind api.Kind) {
	// The terminal's Ctrl-C reaches the entrypoint, which ends of it: 128 + 2.
	line := "BERTH_HOST=unix://" + w.Socket() + " timeout -s INT -k 60 4 " + w.Machine.Programs() + "/berth " +
		strings.Join(run(kind, "--rm", "base", "sh", "-c", "'trap \"exit 130\" INT; while :; do sleep 0.1; done'"), " ")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r := w.Machine.Do(ctx, testenv.Command{Argv: []string{"sh", "-c", line}})
	if r.Err != nil || (r.Exit != 130 && r.Exit != 124) {
		t.Errorf("interrupted: %s", r)
	}
	w.gone(t)
}

// gone waits until no instance is left.
func (w *world) gone(t *testing.T) {
	t.Helper()
	testenv.Eventually(t, time.Minute, func() error {
		if left := w.Berth(t, "ps", "-a", "--format", "{{.Names}} {{.Status}}"); left != "" {
			return &leftError{left}
		}
		return nil
	})
}

type leftError struct{ names string }

func (e *leftError) Error() string { return "instances are left: " + e.names }

func diskFull(t *testing.T, w *world, _ api.Kind) {
	// A daemon whose root is a filesystem of 6 MB, which the image does not fit.
	m := w.Machine
	dir := m.Temp() + "/full"
	testenv.Shell(t, m, "mkdir -p "+dir+" && mount -t tmpfs -o size=6m none "+dir)
	t.Cleanup(func() { testenv.Shell(t, m, "umount "+dir) })
	d := testenv.NewDaemon(t, m, "--root", dir)
	testenv.Shell(t, m, "head -c 20000000 /dev/urandom >"+m.Temp()+"/big && tar cf "+m.Temp()+"/big.tar -C "+m.Temp()+" big")
	refused(t, "import", d.Try(t.Context(), "image", "import", "-q", m.Temp()+"/big.tar", "big"), 1, "big", "space")
	if list := d.Berth(t, "images", "-q"); list != "" {
		t.Errorf("a part of an image became one: %s", list)
	}
}
