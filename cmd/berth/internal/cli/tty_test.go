package cli_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/console"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/rest"
	"github.com/berthcloud/berth/internal/testenv"
)

// stage is a backend with one instance, "web", whose entrypoint and commands
// are what a test says.
type stage struct {
	rest.Records
	rest.Lives
	rest.Insides
	rest.Consoles
	rest.Host

	play  func(context.Context, instance.Streams) (api.Exit, error)
	kills chan string
}

func (s *stage) Get(context.Context, string) (api.Instance, error) {
	return api.Instance{
		ID: "id", Name: "web", Spec: api.Spec{TTY: true, OpenStdin: true}, Status: api.Status{State: api.Running},
	}, nil
}
func (s *stage) Kill(_ context.Context, _, signal string) error { s.kills <- signal; return nil }
func (s *stage) Attach(ctx context.Context, _ string, st instance.Streams, ready func()) (api.Exit, error) {
	ready()
	return s.play(ctx, st)
}
func (s *stage) Console(ctx context.Context, _ string, st instance.Streams) (api.Exit, error) {
	return s.play(ctx, st)
}
func (s *stage) Exec(ctx context.Context, _ string, _ api.Exec, st instance.Streams) (api.Exit, error) {
	return s.play(ctx, st)
}

// terminal is a user at a terminal who has typed a berth command.
type terminal struct {
	t      *testing.T
	master console.Console
	slave  *os.File
	before unix.Termios
	cmd    *exec.Cmd

	mu     sync.Mutex
	screen bytes.Buffer
}

// at runs the command at a terminal of 24 rows and 80 columns.
func at(t *testing.T, s *stage, args ...string) *terminal {
	t.Helper()
	s.kills = make(chan string, 8)
	socket := filepath.Join(t.TempDir(), "s")
	l, err := rest.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	server := rest.New(rest.Backend{Records: s, Lives: s, Insides: s, Consoles: s, Host: s}, slog.New(slog.DiscardHandler))
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() {
		if err := server.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	master, name, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{t: t, master: master, slave: slave}
	term.resize(24, 80)
	term.before = term.mode()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	term.cmd = exec.CommandContext(t.Context(), self, args...)
	term.cmd.Env = append(os.Environ(), "BERTH_TEST_MAIN=1", "BERTH_HOST=unix://"+socket)
	term.cmd.Stdin, term.cmd.Stdout, term.cmd.Stderr = slave, slave, slave
	term.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := term.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 1024)
		for {
			n, err := master.Read(buf)
			term.mu.Lock()
			term.screen.Write(buf[:n])
			term.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		slave.Close() // the master reads EIO once nobody holds the slave
		<-read
		master.Close()
	})
	return term
}

func (term *terminal) resize(rows, cols uint16) {
	term.t.Helper()
	if err := term.master.Resize(console.WinSize{Height: rows, Width: cols}); err != nil {
		term.t.Fatal(err)
	}
}

func (term *terminal) mode() unix.Termios {
	term.t.Helper()
	mode, err := unix.IoctlGetTermios(int(term.slave.Fd()), unix.TCGETS)
	if err != nil {
		term.t.Fatal(err)
	}
	return *mode
}

func (term *terminal) keys(s string) {
	term.t.Helper()
	if _, err := io.WriteString(term.master, s); err != nil {
		term.t.Fatal(err)
	}
}

// shows waits until the screen holds the text.
func (term *terminal) shows(text string) {
	term.t.Helper()
	testenv.Eventually(term.t, 20*time.Second, func() error {
		term.mu.Lock()
		defer term.mu.Unlock()
		if screen := term.screen.String(); !strings.Contains(screen, text) {
			return fmt.Errorf("the screen does not show %q, only %q", text, screen)
		}
		return nil
	})
}

// ends waits for the command and checks that it left the terminal as it was.
func (term *terminal) ends(status int) {
	term.t.Helper()
	_ = term.cmd.Wait()
	if got := term.cmd.ProcessState.ExitCode(); got != status {
		term.t.Errorf("exit status %d, want %d; screen: %q", got, status, term.screen.String())
	}
	if term.mode() != term.before {
		term.t.Errorf("the terminal is left in another mode: %+v, was %+v", term.mode(), term.before)
	}
}

func TestExecAtATerminal(t *testing.T) {
	term := at(t, &stage{play: func(_ context.Context, s instance.Streams) (api.Exit, error) {
		size := <-s.Resize
		fmt.Fprintf(s.Stdout, "first %dx%d;", size.Rows, size.Cols)
		size = <-s.Resize
		fmt.Fprintf(s.Stdout, "then %dx%d;", size.Rows, size.Cols)
		key := make([]byte, 1)
		if _, err := s.Stdin.Read(key); err != nil {
			return api.Exit{}, err
		}
		fmt.Fprintf(s.Stdout, "key %q", key)
		return api.Exit{Code: 5}, nil
	}}, "exec", "-it", "web", "sh")
	term.shows("first 24x80;")
	if term.mode().Lflag&(unix.ECHO|unix.ICANON|unix.ISIG) != 0 {
		t.Errorf("the terminal is not raw: %+v", term.mode())
	}
	term.resize(40, 100)
	term.shows("then 40x100;")
	term.keys("\x03") // ctrl-c belongs to the command
	term.shows(`key "\x03"`)
	term.ends(5)
}

func TestDetachKeys(t *testing.T) {
	left := make(chan error, 1)
	term := at(t, &stage{play: func(ctx context.Context, s instance.Streams) (api.Exit, error) {
		_, _ = io.WriteString(s.Stdout, "attached")
		got, err := io.ReadAll(s.Stdin)
		if string(got) != "\x10x" {
			err = fmt.Errorf("standard input was %q", got)
		}
		<-ctx.Done()
		left <- err
		return api.Exit{}, ctx.Err()
	}}, "attach", "web")
	term.shows("attached")
	term.keys("\x10x\x10\x11") // half of the row, a key, the row
	term.ends(0)
	if err := <-left; err == nil || strings.Contains(err.Error(), "standard input was") {
		t.Errorf("the entrypoint's standard input: %v; want it unfinished", err)
	}
}

// TestConsoleAtATerminal: every key but those that detach is the guest's, and what it
// sends is the terminal's.
func TestConsoleAtATerminal(t *testing.T) {
	term := at(t, &stage{play: func(ctx context.Context, s instance.Streams) (api.Exit, error) {
		_, _ = io.WriteString(s.Stdout, "\x1b[1mlogin:")
		keys := make([]byte, 2)
		if _, err := io.ReadFull(s.Stdin, keys); err != nil {
			return api.Exit{}, err
		}
		fmt.Fprintf(s.Stdout, "keys %q", keys)
		<-ctx.Done()
		return api.Exit{}, ctx.Err()
	}}, "console", "--detach-keys", "ctrl-]", "web")
	term.shows("the serial console of web; ctrl-] leaves it")
	term.shows("\x1b[1mlogin:")
	term.keys("\x03\x1a")
	term.shows(`keys "\x03\x1a"`)
	term.keys("\x1d")
	term.ends(0)
}

// TestConsoleEnds: the end of the machine is the end of its console.
func TestConsoleEnds(t *testing.T) {
	term := at(t, &stage{play: func(context.Context, instance.Streams) (api.Exit, error) {
		return api.Exit{Code: 137, Error: "QEMU was killed by signal 9"}, nil
	}}, "console", "web")
	term.ends(0)
	term.shows("web has ended: QEMU was killed by signal 9")
}

func TestSignalsAreForwarded(t *testing.T) {
	end := make(chan struct{})
	s := &stage{play: func(_ context.Context, s instance.Streams) (api.Exit, error) {
		_, _ = io.WriteString(s.Stdout, "attached")
		<-end
		return api.Exit{Code: 143}, nil
	}}
	term := at(t, s, "attach", "web")
	term.shows("attached")
	for _, sig := range []syscall.Signal{unix.SIGUSR1, unix.SIGTERM} {
		if err := term.cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if got := <-s.kills; got != unix.SignalName(sig) {
			t.Errorf("forwarded %s for %s", got, unix.SignalName(sig))
		}
	}
	close(end)
	term.ends(143)
}

// A hung instance must not hold its client for ever.
func TestClientGivesUp(t *testing.T) {
	s := &stage{play: func(ctx context.Context, s instance.Streams) (api.Exit, error) {
		_, _ = io.WriteString(s.Stdout, "attached")
		<-ctx.Done()
		return api.Exit{}, ctx.Err()
	}}
	term := at(t, s, "attach", "web")
	term.shows("attached")
	for range 3 {
		if err := term.cmd.Process.Signal(unix.SIGINT); err != nil {
			t.Fatal(err)
		}
		<-s.kills
	}
	if err := term.cmd.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	term.ends(125)
	term.shows("gave up on web, which does not end; 'berth kill web' ends it by force")
}
