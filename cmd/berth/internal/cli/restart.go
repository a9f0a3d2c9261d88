package cli

import (
	"context"

	"github.com/spf13/cobra"
)

func newRestartCommand(g *global) *cobra.Command {
	var o stopOptions
	cmd := &cobra.Command{
		Use:   "restart [OPTIONS] INSTANCE [INSTANCE...]",
		Short: "Stop instances and start them again",
		Long:  exits("Stop instances as 'berth stop' does, and start them again."),
		Args:  args(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRestart(cmd.Context(), g, o, args)
		},
		ValidArgsFunction: completeInstances(g, nil),
	}
	o.addFlags(cmd)
	return cmd
}

func runRestart(ctx context.Context, g *global, o stopOptions, refs []string) error {
	so, err := o.read()
	if err != nil {
		return err
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	return each(ctx, g, refs, func(ref string) error { return c.Restart(ctx, ref, so) })
}
