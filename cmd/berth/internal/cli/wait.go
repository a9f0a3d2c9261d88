package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

func newWaitCommand(g *global) *cobra.Command {
	var condition string
	cmd := &cobra.Command{
		Use:   "wait [OPTIONS] INSTANCE [INSTANCE...]",
		Short: "Wait until instances have ended and print their exit statuses",
		Long:  exits("Wait until instances do not run, and print the exit status of each."),
		Args:  args(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runWait(cmd.Context(), g, condition, args)
		},
		ValidArgsFunction: completeInstances(g, nil),
	}
	cmd.Flags().StringVar(&condition, "condition", "not-running", "what to wait for: not-running, next-exit, removed")
	return cmd
}

func runWait(ctx context.Context, g *global, condition string, refs []string) error {
	switch condition {
	case "not-running":
		condition = ""
	case "next-exit", "removed":
	default:
		return usage(fmt.Errorf("--condition: %q is not known; write not-running, next-exit or removed", condition))
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	failed := false
	for _, ref := range refs {
		exit, err := c.Wait(ctx, ref, condition)
		if ctx.Err() != nil {
			return ctx.Err()
		} else if err != nil {
			report(g.Err, err)
			failed = true
			continue
		}
		if exit.Error != "" {
			g.warn(ref + ": " + exit.Error)
		}
		fmt.Fprintln(g.Out, exit.Code)
	}
	if failed {
		return &exitError{code: exitFailed}
	}
	return nil
}
