// Command berth-builder makes images of Dockerfiles. berthd starts it for the first
// build and ends it some time after the last; nobody else runs it.
package main

import (
	"fmt"
	"io"
	"os"

	"github.com/berthcloud/berth/internal/build/builder"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == builder.HoldArg {
		_, _ = io.Copy(io.Discard, os.Stdin)
		return
	}
	if err := builder.Main(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "berth-builder:", err)
		os.Exit(1)
	}
}
