// Command berth-rootless is what an ordinary user's berthd has beside the host's root's:
// see package internal/rootless. berthd becomes the
// first of them, a program of a few megabytes, which starts the others.
//
//	berth-rootless launch RUN BERTHD CGROUP ARG…   is the process that the user sees as berthd
//	berth-rootless hold DIR                        keeps the user's namespaces
//	berth-rootless forward DIR                     leads ports of the host into them, and has pasta lead out
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/berthcloud/berth/internal/rootless"
)

// tell is the descriptor on which berthd waits for "ok" or an error.
const tell = 3

func main() {
	if len(os.Args) >= 5 && os.Args[1] == "launch" {
		l := rootless.Launcher{Run: os.Args[2], Daemon: os.Args[3], Cgroup: os.Args[4], Say: func(line string) {
			fmt.Fprintln(os.Stderr, "berthd: without root:", line)
		}}
		status, err := l.Launch(context.Background(), os.Args[5:])
		if err != nil {
			fmt.Fprintln(os.Stderr, "berthd: without root:", err)
			status = 1
		}
		os.Exit(status)
	}
	if len(os.Args) != 3 || os.Args[1] != "hold" && os.Args[1] != "forward" {
		fmt.Fprintln(os.Stderr, "berth-rootless: is started by berthd")
		os.Exit(2)
	}
	os.Exit(stay(os.Args[1], os.Args[2]))
}

// stay becomes one of the processes that outlive berthd.
func stay(role, dir string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	// Not the terminal's signals: what is kept here outlives whoever pressed a key.
	_, _ = syscall.Setsid()
	syscall.CloseOnExec(tell)
	waiting := os.NewFile(tell, "berthd")
	ready := func() {
		_, _ = waiting.WriteString("ok")
		waiting.Close()
	}
	var err error
	if role == "hold" {
		err = rootless.Hold(ctx, dir, ready)
	} else {
		err = rootless.Forward(ctx, dir, slog.New(slog.NewTextHandler(os.Stderr, nil)), ready)
	}
	if err != nil {
		_, _ = fmt.Fprintln(waiting, err)
		fmt.Fprintln(os.Stderr, "berth-rootless:", err)
		return 1
	}
	return 0
}
