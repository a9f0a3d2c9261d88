package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/api"
)

func newSuspendCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "suspend INSTANCE [INSTANCE...]",
		Short: "Save running VMs to disk and take their memory back",
		Long: exits("Save running VMs to disk, with all that is in their memory, and take that back from\n" +
			"them. 'berth resume' lets them go on from there, also after a reboot of the host;\n" +
			"'berth kill' gives up what was saved."),
		Args: args(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runSuspend(cmd.Context(), g, args)
		},
		ValidArgsFunction: completeInstances(g, alive),
	}
}

func runSuspend(ctx context.Context, g *global, refs []string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	return each(ctx, g, refs, func(ref string) error { return c.Suspend(ctx, ref) })
}

func newResumeCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "resume INSTANCE [INSTANCE...]",
		Short: "Let suspended VMs go on",
		Long:  exits("Let VMs that 'berth suspend' saved go on from where they were, as 'berth start'\ndoes."),
		Args:  args(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runResume(cmd.Context(), g, args)
		},
		ValidArgsFunction: completeInstances(g, func(s api.State) bool { return s == api.Suspended }),
	}
}

func runResume(ctx context.Context, g *global, refs []string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	return each(ctx, g, refs, func(ref string) error {
		inst, err := c.Resume(ctx, ref)
		g.warn(inst.Status.Notice)
		return err
	})
}
