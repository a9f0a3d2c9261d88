package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Command is a command to run on a machine.
type Command struct {
	Argv  []string
	Stdin io.Reader // nil for none
}

// Result is what a command did.
type Result struct {
	Stdout, Stderr string
	Exit           int   // -1 where a signal ended it
	Err            error // it could not be run, or ran out of time
}

// String shows the whole result, for a test's message.
func (r Result) String() string {
	s := fmt.Sprintf("exit %d", r.Exit)
	if r.Err != nil {
		s += fmt.Sprintf(" (%v)", r.Err)
	}
	return fmt.Sprintf("%s, stdout %q, stderr %q", s, r.Stdout, r.Stderr)
}

// Machine is where a daemon runs: this one, or a host of a rack.
type Machine interface {
	// Do runs a command to its end.
	Do(ctx context.Context, c Command) Result
	// Programs is the directory of Berth's programs there.
	Programs() string
	// Temp is a directory there for the test's own files.
	Temp() string
	// Runtime is one that a power cut empties, as /run.
	Runtime() string
	// Neighbor is another machine on the same Ethernet segment, and Address is
	// this one's address in it.
	Neighbor() Machine
	Address() string
}

// Shell runs a line of shell on a machine and returns its output without the
// last line break; a line that fails, or takes over a minute, fails the test.
func Shell(t testing.TB, m Machine, line string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	r := m.Do(ctx, Command{Argv: []string{"sh", "-c", line}})
	if r.Exit != 0 || r.Err != nil {
		t.Fatalf("%s: %s", line, r)
	}
	return strings.TrimSuffix(r.Stdout, "\n")
}

// Local is this machine, with a network namespace for the test: its bridges,
// addresses and firewall rules meet nobody else's. A second namespace, joined
// to it by a veth pair, is its neighbor.
type Local struct {
	netns    string // "" for the machine's own
	address  string
	neighbor *Local
	programs string
	temp     string
}

// NewLocal builds the programs and makes the network namespaces.
func NewLocal(t testing.TB) *Local {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a daemon needs root")
	}
	programs, temp := Programs(t), Dir(t)
	l := &Local{netns: Name(t), address: "192.0.2.1", programs: programs, temp: temp}
	n := &Local{netns: Name(t) + "n", address: "192.0.2.2", programs: programs, temp: temp}
	l.neighbor, n.neighbor = n, l
	for _, m := range []*Local{l, n} {
		if _, err := run(t.Context(), "/", "ip", "netns", "add", m.netns); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if _, err := run(context.WithoutCancel(t.Context()), "/", "ip", "netns", "del", m.netns); err != nil {
				t.Error(err)
			}
		})
		Shell(t, m, "ip link set lo up")
	}
	Shell(t, l, "ip link add up0 type veth peer name up0 netns "+n.netns)
	for _, m := range []*Local{l, n} {
		Shell(t, m, "ip addr add "+m.address+"/24 dev up0 && ip link set up0 up")
	}
	Shell(t, l, "ip route add default via "+n.address)
	return l
}

// Here is this machine as it is, for daemons that touch nothing of it.
func Here(t testing.TB) *Local {
	t.Helper()
	return &Local{programs: Programs(t), temp: Dir(t)}
}

// Do implements Machine. Only the network namespace differs from the test's:
// mounts are the machine's, so that the leak check sees them.
func (l *Local) Do(ctx context.Context, c Command) Result {
	argv := c.Argv
	if l.netns != "" {
		argv = append([]string{"nsenter", "--net=/run/netns/" + l.netns}, argv...)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin = c.Stdin
	cmd.WaitDelay = time.Second // a daemon that it started may keep its output open
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	r := Result{Stdout: out.String(), Stderr: errs.String(), Exit: -1}
	if cmd.ProcessState != nil {
		r.Exit = cmd.ProcessState.ExitCode()
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		r.Err = err
	}
	if ctx.Err() != nil {
		r.Err = fmt.Errorf("%s: %w", strings.Join(c.Argv, " "), ctx.Err())
	}
	return r
}

// Programs implements Machine.
func (l *Local) Programs() string { return l.programs }

// Temp implements Machine.
func (l *Local) Temp() string { return l.temp }

// Runtime implements Machine.
func (l *Local) Runtime() string { return l.temp }

// Neighbor implements Machine.
func (l *Local) Neighbor() Machine { return l.neighbor }

// Address implements Machine.
func (l *Local) Address() string { return l.address }

// Do implements Machine.
func (h *Host) Do(ctx context.Context, c Command) Result {
	j, err := h.Start(c.Stdin, c.Argv...)
	if err != nil {
		return Result{Exit: -1, Err: err}
	}
	exit, err := j.Wait(ctx)
	stdout, stderr := j.Output()
	return Result{Stdout: stdout, Stderr: stderr, Exit: exit, Err: err}
}

// Programs implements Machine.
func (h *Host) Programs() string { return "/opt/berth" }

// Temp implements Machine. It survives a power cut.
func (h *Host) Temp() string { return "/data/test" }

// Runtime implements Machine.
func (h *Host) Runtime() string { return "/run" }

// Neighbor implements Machine: the next host of the rack, or the host itself
// where there is only one.
func (h *Host) Neighbor() Machine { return h.rack.Hosts[h.number%len(h.rack.Hosts)] }

// Address implements Machine.
func (h *Host) Address() string { return h.address }
