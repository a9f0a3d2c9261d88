package main

import (
	"context"
	"strings"
)

// carryOut is one command line of a process that stands by (package standby). What
// it starts becomes a child of the parent, as if this process had been started for
// the one command line and had ended.
func carryOut(ctx context.Context, args []string, stdio [3]int) (status int, text string) {
	var said strings.Builder
	c := &cli{ctx: ctx, stdio: stdio, stderr: &said, standby: true}
	status = c.main(args)
	return status, said.String()
}
