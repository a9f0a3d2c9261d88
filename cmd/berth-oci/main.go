// Command berth-oci is an OCI runtime: it creates and runs containers from
// bundles, with the command line of runc. It is also its own init stage: see
// package internal/oci/stage.
//
// It starts in about a millisecond and is started twice per container, so it
// imports little: no flag library, no logger.
package main

import (
	"os"
	"runtime"
	"syscall"

	"github.com/berthcloud/berth/internal/keeper/standby"
	"github.com/berthcloud/berth/internal/oci/stage"
)

// init runs on the process's first thread, and locking it here keeps the main
// goroutine there: the stage joins cgroups and takes its final credentials with
// that thread (see package stage).
func init() {
	if stage.Is(os.Args) {
		runtime.LockOSThread()
	}
}

func main() {
	if stage.IsReaper(os.Args) {
		os.Exit(stage.Reap(os.Args))
	}
	// The Go runtime has raised the soft limit of open files. A failing Exec puts the
	// caller's back, for the workload to inherit.
	_ = syscall.Exec("", []string{""}, nil)
	if stage.Is(os.Args) {
		os.Exit(stage.Main(os.Args))
	}
	if standby.Is(os.Args) {
		os.Exit(standby.Serve(carryOut))
	}
	os.Exit(newCLI().main(os.Args[1:]))
}
