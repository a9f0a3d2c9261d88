package cli

import (
	"context"

	"github.com/spf13/cobra"
)

func newPauseCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "pause INSTANCE [INSTANCE...]",
		Short: "Freeze running instances in memory",
		Long:  exits("Freeze all processes of containers, or the processors of VMs."),
		Args:  args(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runPause(cmd.Context(), g, args)
		},
		ValidArgsFunction: completeInstances(g, alive),
	}
}

func runPause(ctx context.Context, g *global, refs []string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	return each(ctx, g, refs, func(ref string) error { return c.Pause(ctx, ref) })
}

func newUnpauseCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "unpause INSTANCE [INSTANCE...]",
		Short: "Let paused instances go on",
		Long:  exits("Let instances that 'berth pause' froze go on."),
		Args:  args(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runUnpause(cmd.Context(), g, args)
		},
		ValidArgsFunction: completeInstances(g, alive),
	}
}

func runUnpause(ctx context.Context, g *global, refs []string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	return each(ctx, g, refs, func(ref string) error { return c.Unpause(ctx, ref) })
}
