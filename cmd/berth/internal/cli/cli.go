// Package cli is the command line of Berth: one file per command, each with a
// newXCommand that declares flags and help, and a runX that does the work
// through package client and prints the answer.
//
// # Exit status
//
// Commands that run something for the user (run, exec, start -a, attach)
// return its own exit status, so what goes wrong before it runs has numbers of
// its own, the ones docker uses: 125 for Berth, 126 for a command that cannot
// be executed, 127 for one that is not there. All others return 1. A wrong
// command line is 125 everywhere.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/client"
	"github.com/berthcloud/berth/cmd/berth/internal/terminal"
)

// Build names the build of the command; the linker fills it in.
type Build struct{ Version, Commit, Built string }

// Std is what the command line takes from its process.
type Std struct {
	In       *os.File
	Out, Err *os.File
	Env      func(string) (string, bool)
	Build    Build
}

// global is what every command has at hand.
type global struct {
	Std
	host string         // --host, else BERTH_HOST, else the default
	made *client.Client // by client

	// signal, where set, gets the signals that otherwise end the command.
	signal atomic.Pointer[func(unix.Signal)]
}

// client returns the client of the daemon the user named.
func (g *global) client() (*client.Client, error) {
	if g.made != nil {
		return g.made, nil
	}
	host := g.host
	if host == "" {
		host, _ = g.Env("BERTH_HOST")
	}
	c, err := client.New(host)
	g.made = c
	return c, err
}

// now is the clock of what is printed.
func (g *global) now() time.Time { return time.Now() }

// warn prints one line that is neither result nor error.
func (g *global) warn(text string) {
	if text != "" {
		fmt.Fprintf(g.Err, "berth: %s\n", api.OneLine(text))
	}
}

// The exit statuses of Berth's own.
const (
	exitFailed      = 1
	exitBerth       = 125
	exitNotRunnable = 126
	exitNoCommand   = 127
)

// exitError ends the command with a status. Err is printed where not nil.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usage marks a wrong command line.
func usage(err error) error {
	if err == nil {
		return nil
	}
	return &exitError{exitBerth, err}
}

// runError gives a failure before or instead of the user's command its exit
// status: the table from kinds of error to exit status.
func runError(err error) error {
	if _, ok := errors.AsType[*exitError](err); ok || err == nil {
		return err
	}
	switch api.KindOf(err) {
	case api.NotRunnable:
		return &exitError{exitNotRunnable, err}
	case api.NoCommand:
		return &exitError{exitNoCommand, err}
	}
	return &exitError{exitBerth, err}
}

// interrupted is the cause of a context that a signal ended.
type interrupted struct{ signal unix.Signal }

func (i interrupted) Error() string { return "interrupted by " + unix.SignalName(i.signal) }

// Main runs one command line and returns its exit status.
func Main(args []string, std Std) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	g := &global{Std: std}
	stop := terminal.Signals(func(s unix.Signal) {
		if f := g.signal.Load(); f != nil {
			(*f)(s)
			return
		}
		cancel(interrupted{s})
	})
	defer stop()
	root := newRoot(g, commandWord(args))
	root.SetArgs(args)
	root.SetIn(std.In)
	root.SetOut(std.Out)
	root.SetErr(std.Err)
	err := root.ExecuteContext(ctx)
	if g.made != nil {
		g.made.Close()
	}
	if i, ok := errors.AsType[interrupted](context.Cause(ctx)); ok {
		if err != nil {
			err = i
		}
		err = &exitError{128 + int(i.signal), err}
	}
	return report(std.Err, err)
}

// quietly makes the end by a signal of a command that otherwise goes on for
// ever (logs -f, events, stats) worth no word.
func quietly(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// report prints an error as one line and returns its exit status.
func report(w io.Writer, err error) int {
	if err == nil {
		return 0
	}
	e, ok := errors.AsType[*exitError](err)
	if !ok {
		e = &exitError{exitFailed, err}
	}
	if e.err != nil {
		line := strings.ReplaceAll(e.err.Error(), "\n", "; ") // of errors.Join
		fmt.Fprintf(w, "berth: %s\n", api.OneLine(line))
	}
	return e.code
}

// each does f for every reference, goes on after a failure, and prints those
// that succeeded. It returns the failures.
func each(ctx context.Context, g *global, refs []string, f func(ref string) error) error {
	failed := false
	for _, ref := range refs {
		if err := f(ref); ctx.Err() != nil {
			return ctx.Err()
		} else if err != nil {
			report(g.Err, err)
			failed = true
			continue
		}
		fmt.Fprintln(g.Out, ref)
	}
	if failed {
		return &exitError{code: exitFailed}
	}
	return nil
}

// width returns the width function of a progress on standard error: nil
// where that is no terminal.
func (g *global) width() func() int {
	if !terminal.Is(g.Err) {
		return nil
	}
	return func() int { return terminal.Width(g.Err) }
}

// Command returns the whole command tree, to generate its manual from.
func Command() *cobra.Command {
	return newRoot(&global{Std: Std{Env: os.LookupEnv}}, "")
}
