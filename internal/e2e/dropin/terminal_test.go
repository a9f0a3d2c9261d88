package dropin

import (
	"context"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/testenv"
)

// typist sits at a terminal in which a command line of an engine runs.
type typist struct {
	t      *testing.T
	fd     int // of master, for ioctl
	master *os.File

	mu  sync.Mutex
	out strings.Builder
}

// terminal runs a command line of the engine in a terminal of 30 rows and 100
// columns, lets session type, and fails the test unless the command line then ends
// with the exit status.
func (e *engine) terminal(code int, args []string, session func(*typist)) {
	e.t.Helper()
	fd, peer := openTerminal(e.t)
	// Not blocking, so that Close ends a Read.
	y := &typist{t: e.t, fd: fd, master: os.NewFile(uintptr(fd), "terminal")}
	y.resize(30, 100)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.t.Context()), patience)
	defer cancel()
	cmd := e.command(ctx, e.argv(args)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = peer, peer, peer
	cmd.Env = append(os.Environ(), e.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	must(e.t, cmd.Start())
	peer.Close()
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(y, y.master) // EIO once nobody has the other end any more
	}()
	session(y)
	_ = cmd.Wait()
	y.master.Close()
	<-read
	if got := cmd.ProcessState.ExitCode(); got != code {
		e.t.Errorf("%v: exit status %d, wanted %d:\n%s", args, got, code, y.text())
	}
}

// Write collects what the terminal shows.
func (y *typist) Write(b []byte) (int, error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.out.Write(b)
}

func (y *typist) text() string {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.out.String()
}

// types types a line and waits until the terminal shows the pattern.
func (y *typist) types(line, pattern string) {
	y.t.Helper()
	_, err := io.WriteString(y.master, line+"\n")
	must(y.t, err)
	y.sees(pattern)
}

// sees waits until the terminal shows the pattern.
func (y *typist) sees(pattern string) {
	y.t.Helper()
	testenv.Eventually(y.t, patience, func() error {
		if !regexp.MustCompile(pattern).MatchString(y.text()) {
			return &unseen{pattern, y.text()}
		}
		return nil
	})
}

// unseen is the error of a terminal that does not show what it should.
type unseen struct{ pattern, text string }

func (u *unseen) Error() string {
	return "the terminal does not show " + u.pattern + " but:\n" + u.text
}

// resize changes the size of the terminal, of which the kernel tells the program in it.
func (y *typist) resize(rows, columns uint16) {
	y.t.Helper()
	must(y.t, unix.IoctlSetWinsize(y.fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}))
}

// openTerminal returns both ends of a new terminal.
func openTerminal(t *testing.T) (master int, peer *os.File) {
	t.Helper()
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	must(t, err)
	must(t, unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	must(t, err)
	peer, err = os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	return master, peer
}
