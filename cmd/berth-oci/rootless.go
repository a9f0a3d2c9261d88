package main

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci"
)

// enter carries out this same command line as root of the container's user namespace,
// for a caller who is an ordinary user, and returns its exit status.
func (c *cli) enter(o oci.CreateOptions) (int, error) {
	if o.Console >= 0 {
		unix.Close(o.Console) // the child connects by itself
	}
	sig := catchSignals()
	pid, err := oci.Enter(o.Bundle, 3+o.PreserveFDs, append([]string{"--root", c.root}, os.Args[1:]...))
	if err != nil {
		return 0, err
	}
	sig.forward(pid, nil)
	return reap(pid), nil
}
