// Command berth-rootless is what an ordinary user's berthd has beside the host's root's:
// see package internal/rootless. berthd starts it.
//
//	berth-rootless hold DIR      keeps the user's namespaces
//	berth-rootless forward DIR   leads ports of the host into them, and has pasta lead out
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
	if len(os.Args) != 3 || os.Args[1] != "hold" && os.Args[1] != "forward" {
		fmt.Fprintln(os.Stderr, "berth-rootless: is started by berthd; usage: berth-rootless hold|forward DIR")
		os.Exit(2)
	}
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
	if os.Args[1] == "hold" {
		err = rootless.Hold(ctx, os.Args[2], ready)
	} else {
		err = rootless.Forward(ctx, os.Args[2], slog.New(slog.NewTextHandler(os.Stderr, nil)), ready)
	}
	if err != nil {
		_, _ = fmt.Fprintln(waiting, err)
		fmt.Fprintln(os.Stderr, "berth-rootless:", err)
		os.Exit(1)
	}
}
