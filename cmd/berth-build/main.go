// Command berth-build is the part of "berth build" that speaks BuildKit's protocol:
// it shows a daemon the context, secrets and credentials of a build, and the user how it
// goes. It is a program of its own because what it links takes longer to start than most
// commands of berth take in all. "berth build" becomes it; nobody else calls it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/moby/buildkit/solver/errdefs"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/client"
)

// The exit statuses are those of berth.
const (
	exitFailed = 1
	exitUsage  = 125
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	log.SetOutput(io.Discard) // libraries tell there of connections that end with a build
	var b client.Build
	if len(args) != 1 || json.Unmarshal([]byte(args[0]), &b) != nil {
		fmt.Fprintln(os.Stderr, "berth-build: it is a part of 'berth build'; call that")
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	err := build(ctx, &b)
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "berth: build: interrupted; what was built so far is kept for the next build")
		return 128 + int(unix.SIGINT)
	}
	for _, source := range errdefs.Sources(err) {
		fmt.Fprintln(os.Stderr)
		_ = source.Print(os.Stderr) // the error follows in any case
	}
	fmt.Fprintln(os.Stderr, "berth:", api.OneLine(message(err)))
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	return exitFailed
}

// usageError marks a wrong command line.
type usageError struct{ error }
