// Command berth-verify reads a question for signatures of an image from its standard
// input and writes the answer: what reads certificates and signatures of strangers is no
// part of the daemon. Its argument is the user that it becomes before it reads.
package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"github.com/berthcloud/berth/internal/image/trust"
	"github.com/berthcloud/berth/internal/image/trust/verify"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "berth-verify:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) > 1 {
		return errors.New("usage: berth-verify [USER-ID]")
	}
	if len(args) == 1 {
		user, err := strconv.ParseUint(args[0], 10, 32)
		if err != nil {
			return err
		}
		if err := become(int(user)); err != nil {
			return fmt.Errorf("become user %d: %w", user, err)
		}
	}
	return trust.Serve(os.Stdin, os.Stdout, verify.Verify)
}

// become gives up what root may do.
func become(user int) error {
	return errors.Join(syscall.Setgroups(nil), syscall.Setgid(user), syscall.Setuid(user))
}
