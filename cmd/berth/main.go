// Command berth is the command line of Berth: it runs and looks after
// containers and virtual machines through the daemon, berthd.
package main

import (
	"os"
	"runtime"

	"github.com/berthcloud/berth/cmd/berth/internal/cli"
)

// The linker fills these in (-X main.version=…).
var (
	version = "dev"
	commit  string
	built   string
)

func main() {
	// A command waits for its daemon most of the time: to wake further threads for
	// that costs more than they do.
	runtime.GOMAXPROCS(1)
	os.Exit(cli.Main(os.Args[1:], cli.Std{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Env: os.LookupEnv,
		Build: cli.Build{Version: version, Commit: commit, Built: built},
	}))
}
