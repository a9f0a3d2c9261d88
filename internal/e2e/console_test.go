package e2e

import (
	"bytes"
	"context"
	"crypto/des" //nolint:gosec // what VNC has
	"fmt"
	"image/png"
	"io"
	"math/bits"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/testenv"
)

// consoleScenarios are about what surrounds a VM.
var consoleScenarios = []scenario{
	{"console", localOnly, vms, serialConsole},
	{"console of a killed QEMU", localOnly, vms, consoleOfKilled},
	{"display", localOnly, vms, display},
	{"TPM", localOnly, vms, trustedModule},
	{"crash", localOnly, vms, crashes},
	{"watchdog", localOnly, vms, watchdog},
}

// serialConsole types to a shell on the guest's serial line, until it ends.
func serialConsole(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "line", "base", "sh", "-c", "echo ready; exec sh </dev/ttyS0 >/dev/ttyS0 2>&1")
	w.logged(t, "line", "ready\n")
	refused(t, "screenshot without a display", w.Try(t.Context(), "vga", "line"), 1, "line", "no display", "--graphics")
	r := w.TryInput(t.Context(), strings.NewReader("echo said $((40+2)); exit 7\n"), "console", "line")
	if r.Exit != 0 || !strings.Contains(r.Stdout, "said 42\r\n") || r.Stderr != "berth: line has ended\n" {
		t.Errorf("console: %s", r)
	}
	w.becomes(t, "line", ".Status.ExitCode", "7")
	if log := w.Berth(t, "logs", "line"); log != "ready" {
		t.Errorf("the console is not the log: %q", log)
	}
	refused(t, "of one that does not run", w.Try(t.Context(), "console", "line"), 1, "line", "exited", "berth start line")
	w.start(t, api.Container, "box", "base", "sleep", "1000")
	refused(t, "of a container", w.Try(t.Context(), "console", "box"), 1, "box", "container", "berth attach box")
	refused(t, "screenshot of a container", w.Try(t.Context(), "vga", "box"), 1, "box", "container", "no display")
}

// consoleOfKilled has a guest flood its console with control sequences while one
// client watches and QEMU is killed: none of it gets into what Berth itself says.
func consoleOfKilled(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "loud", "base", "sh", "-c", `echo ready; while :; do printf '\033]0;owned\007\033[31mloud\n'; done >/dev/ttyS0`)
	w.logged(t, "loud", "ready\n")
	watched := make(chan testenv.Result, 1)
	go func() { watched <- w.Try(t.Context(), "console", "--no-stdin", "loud") }()
	expect(t, "exec beside it", w.Try(t.Context(), "exec", "loud", "echo", "here"), 0, "here\n")
	testenv.Shell(t, w.Machine, "sleep 1; kill -9 "+w.field(t, "loud", ".Status.PID"))
	r := <-watched
	if r.Exit != 0 || !strings.Contains(r.Stdout, "\x1b[31mloud\r\n") || !strings.HasPrefix(r.Stderr, "berth: loud has ended: QEMU was killed by signal 9") {
		t.Errorf("console: exit %d, %d bytes, %q, %v", r.Exit, len(r.Stdout), r.Stderr, r.Err)
	}
	w.becomes(t, "loud", ".Status.State", "failed")
	if said := r.Stderr + w.Berth(t, "inspect", "loud"); strings.ContainsAny(said, "\x1b\a") {
		t.Errorf("a control sequence of the guest's: %q", said)
	}
}

// display looks at a guest's display by a screenshot and by VNC, past a restart of
// berthd, until QEMU is killed.
func display(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "seen", "--graphics", "base", "sh", "-c", `printf '\033[44mshown\n' >/dev/tty0; echo ready; exec sleep 1000`)
	w.logged(t, "seen", "ready\n")
	w.Stop(t)
	w.Start(t)
	dir := testenv.Dir(t)
	shot := filepath.Join(dir, "seen.png")
	testenv.Eventually(t, time.Minute, func() error { // the display's driver comes late
		if said := w.Berth(t, "vga", "-o", shot, "seen"); said != shot {
			t.Errorf("vga says %q", said)
		}
		return blue(shot)
	})

	socket, said := filepath.Join(dir, "vnc"), filepath.Join(dir, "said")
	pid := testenv.Shell(t, w.Machine, fmt.Sprintf("BERTH_HOST=unix://%s %s/berth vga --vnc --listen unix:%s seen >%s 2>&1 </dev/null & echo $!",
		w.Socket(), w.Machine.Programs(), socket, said))
	var password string
	testenv.Eventually(t, time.Minute, func() error {
		text, _ := os.ReadFile(said)
		if _, err := fmt.Sscanf(string(text), "vnc://"+socket+"\npassword: %s\n", &password); err != nil {
			return fmt.Errorf("vga --vnc says %q: %w", text, err)
		}
		return nil
	})
	for _, wrong := range []string{"", "wrong", password[:7], strings.ToLower(password)} {
		if conn, err := vnc(socket, wrong); err == nil {
			conn.Close()
			t.Errorf("the password %q was let in", wrong)
		}
	}
	first, err := vnc(socket, password)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	second, err := vnc(socket, password)
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
	qemu := w.field(t, "seen", ".Status.PID")
	args := testenv.Shell(t, w.Machine, "tr '\\0' ' ' </proc/"+qemu+"/cmdline")
	if strings.Contains(args+w.Berth(t, "inspect", "seen"), password) || !strings.Contains(args, "-vnc none,password=on") {
		t.Errorf("the password can be seen, or is none: %s", args)
	}
	testenv.Shell(t, w.Machine, "kill -9 "+qemu)
	if _, err := first.Read(make([]byte, 1)); err == nil {
		t.Error("a display without QEMU goes on")
	}
	testenv.Shell(t, w.Machine, "kill "+pid)
}

// blue reports whether the screenshot has a blue pixel.
func blue(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	shot, err := png.Decode(file)
	if err != nil {
		return err
	}
	size := shot.Bounds()
	for y := range size.Dy() {
		for x := range size.Dx() {
			if r, g, b, _ := shot.At(x, y).RGBA(); b > 0x8000 && r+g == 0 {
				return nil
			}
		}
	}
	return fmt.Errorf("%dx%d pixels, none of them blue", size.Dx(), size.Dy())
}

// vnc connects as a VNC client does (RFC 6143 sections 7.1 and 7.2.2).
func vnc(socket, password string) (net.Conn, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	fail := func(format string, args ...any) (net.Conn, error) {
		conn.Close()
		return nil, fmt.Errorf(format, args...)
	}
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	var version [12]byte
	var types [2]byte
	var challenge [16]byte
	if _, err := io.ReadFull(conn, version[:]); err != nil {
		return fail("version: %w", err)
	}
	fmt.Fprint(conn, "RFB 003.008\n")
	if _, err := io.ReadFull(conn, types[:]); err != nil || !bytes.Equal(types[:], []byte{1, 2}) {
		return fail("its ways to authenticate are %v, not VNC's alone: %w", types, err)
	}
	conn.Write(types[1:])
	if _, err := io.ReadFull(conn, challenge[:]); err != nil {
		return fail("challenge: %w", err)
	}
	var key [8]byte
	copy(key[:], password)
	for i := range key {
		key[i] = bits.Reverse8(key[i])
	}
	block, err := des.NewCipher(key[:])
	if err != nil {
		return fail("%w", err)
	}
	block.Encrypt(challenge[:8], challenge[:8])
	block.Encrypt(challenge[8:], challenge[8:])
	conn.Write(challenge[:])
	var result [4]byte
	if _, err := io.ReadFull(conn, result[:]); err != nil || result != [4]byte{} {
		return fail("refused with %v: %w", result, err)
	}
	return conn, nil
}

// readClock asks a TPM for its clock (TPM2_ReadClock) and prints how often it was reset.
const readClock = `exec 3<>/dev/tpm0; printf '\200\001\000\000\000\012\000\000\001\201' >&3; dd bs=64 count=1 <&3 2>/dev/null | od -An -tu1 -j29 -N1 | tr -d ' '; exec 3>&-`

// trustedModule gives a guest a TPM, which outlives berthd and a restart, whose swtpm has
// no rights and the guest's own state alone, and of which nothing is left.
func trustedModule(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "trusted", "--tpm", "base", "sh", "-c", "echo resets $("+readClock+"); exec sleep 1000")
	w.logged(t, "trusted", "resets 1\n")
	id := w.field(t, "trusted", ".ID")
	swtpm := func() string { // in the instance's cgroup
		return testenv.Shell(t, w.Machine, "for p in $(grep -ls "+id+" /proc/[0-9]*/cgroup); do p=${p%/cgroup}; test $(cat $p/comm) != swtpm || echo ${p#/proc/}; done")
	}
	pid := swtpm()
	uids := testenv.Shell(t, w.Machine, "stat -c %u /proc/"+pid+" /proc/"+w.field(t, "trusted", ".Status.PID")+" | sort -u | grep -vx 0 | wc -l")
	if uids != "2" {
		t.Errorf("swtpm shares its user with QEMU or root: %s of their own", uids)
	}
	status := testenv.Shell(t, w.Machine, "tr '\\t' ' ' </proc/"+pid+"/status; tr '\\0' ' ' </proc/"+pid+"/cmdline; ls -l /proc/"+pid+"/fd")
	for _, want := range []string{"Name: swtpm", "CapEff: 0000000000000000", "NoNewPrivs: 1", "Seccomp: 2"} {
		if !strings.Contains(status, want) {
			t.Errorf("swtpm is not %q:\n%s", want, status)
		}
	}
	w.Kill(t)
	w.Start(t)
	expect(t, "after berthd's death", w.Try(t.Context(), "exec", "trusted", "sh", "-c", readClock), 0, "1\n")
	if now := swtpm(); now != pid {
		t.Errorf("swtpm was process %s and is %s", pid, now)
	}
	w.Berth(t, "suspend", "trusted")
	testenv.Eventually(t, time.Minute, func() error { return w.noProcess(t, pid) })
	w.Berth(t, "resume", "trusted")
	expect(t, "after a suspension", w.Try(t.Context(), "exec", "trusted", "sh", "-c", readClock), 0, "1\n")
	refused(t, "a snapshot", w.Try(t.Context(), "snapshot", "create", "trusted"), 1, "trusted", "TPM", "--tpm")
	refused(t, "a clone", w.Try(t.Context(), "clone", "trusted"), 1, "trusted", "TPM")
	pid = swtpm()
	w.Berth(t, "restart", "trusted")
	w.logged(t, "trusted", "resets 2\n")
	testenv.Eventually(t, time.Minute, func() error { return w.noProcess(t, pid) })
	pid = swtpm()
	testenv.Shell(t, w.Machine, "kill -9 "+w.field(t, "trusted", ".Status.PID"))
	w.becomes(t, "trusted", ".Status.State", "failed")
	testenv.Eventually(t, time.Minute, func() error { return w.noProcess(t, pid) })
	testenv.Shell(t, w.Machine, "test -s "+w.Dir+"/root/instances/"+id+"/tpm/tpm2-00.permall")
	w.remove(t, "trusted")
	testenv.Shell(t, w.Machine, "test ! -e "+w.Dir+"/root/instances/"+id)
}

// noProcess reports whether a process has ended.
func (w *world) noProcess(t *testing.T, pid string) error {
	if testenv.Shell(t, w.Machine, "test ! -e /proc/"+pid+" && echo gone || true") != "gone" {
		return fmt.Errorf("process %s goes on", pid)
	}
	return nil
}

// crashes has the kernel of guests panic, one while berthd is dead: each becomes what its
// policy says.
func crashes(t *testing.T, w *world, kind api.Kind) {
	const panics = "echo c >/proc/sysrq-trigger"
	w.start(t, kind, "kept", "--on-crash", "pause", "base", "sh", "-c", "echo ready; sleep 1; "+panics)
	w.start(t, kind, "ends", "--on-crash", "stop", "base", "sh", "-c", "echo ready; sleep 1; "+panics)
	w.logged(t, "kept", "ready\n")
	w.becomes(t, "ends", ".Status.State", "failed")
	if said := w.field(t, "ends", ".Status.Error"); said != "the guest's kernel panicked; last words: Kernel panic - not syncing: sysrq triggered crash" {
		t.Errorf("the error of one that panicked: %q", said)
	}
	w.becomes(t, "kept", ".Status.State", "paused")
	w.Kill(t)
	w.Start(t)
	w.becomes(t, "kept", ".Status.State", "paused")
	if said := w.field(t, "kept", ".Status.Notice"); !strings.Contains(said, "kernel panicked") || !strings.Contains(said, "berth console kept") {
		t.Errorf("the notice of one that is kept: %q", said)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if r := w.Try(ctx, "console", "--no-stdin", "kept"); !strings.Contains(r.Stdout, "sysrq triggered crash") {
		t.Errorf("the console of one that is kept: %s", r)
	}
	w.Berth(t, "stop", "kept")
	w.becomes(t, "kept", ".Status.State", "failed")
}

// watchdog has a guest feed its watchdog no more, after which it is started again.
func watchdog(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "fed", "--watchdog", "--on-crash", "restart", "base", "watchdog", "-F", "-T", "2", "-t", "1", "/dev/watchdog")
	first := w.field(t, "fed", ".Status.PID")
	w.Berth(t, "exec", "fed", "sh", "-c", "kill -STOP $(pidof watchdog)")
	w.becomes(t, "fed", ".Status.Restarts", "1")
	w.becomes(t, "fed", ".Status.State", "running")
	if now := w.field(t, "fed", ".Status.PID"); now == first {
		t.Error("it is the same QEMU")
	}
	if said := w.Berth(t, "events", "--since", "1m", "--until", "0s", "--filter", "name=fed", "--filter", "action=exit"); !strings.Contains(said, "the guest fed its watchdog no more") {
		t.Errorf("the event of its end: %s", said)
	}
}
