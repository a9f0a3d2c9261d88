// Command berth-oci is an OCI runtime: it creates and runs containers from
// bundles, with the command line of runc. It is also a container's reaping init,
// and the helper inside one: see package internal/oci/stage.
//
// It starts in about a millisecond, for each container, so it imports little: no flag
// library, no logger.
package main

import (
	"os"
	"syscall"

	"github.com/berthcloud/berth/internal/keeper/standby"
	"github.com/berthcloud/berth/internal/oci/stage"
)

func main() {
	switch {
	case stage.IsReaper(os.Args):
		os.Exit(stage.Reap(os.Args))
	case stage.IsHelper(os.Args):
		os.Exit(stage.Help())
	}
	// The Go runtime has raised the soft limit of open files. A failing Exec puts the
	// caller's back, for the workload to inherit.
	_ = syscall.Exec("", []string{""}, nil)
	if standby.Is(os.Args) {
		os.Exit(standby.Serve(carryOut))
	}
	os.Exit(newCLI().main(os.Args[1:]))
}
