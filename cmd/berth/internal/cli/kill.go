package cli

import (
	"context"

	"github.com/spf13/cobra"
)

func newKillCommand(g *global) *cobra.Command {
	var signal string
	cmd := &cobra.Command{
		Use:   "kill [OPTIONS] INSTANCE [INSTANCE...]",
		Short: "Send a signal to running instances, SIGKILL unless told otherwise",
		Long:  exits("Send a signal to the entrypoint of running instances."),
		Args:  args(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runKill(cmd.Context(), g, signal, args)
		},
		ValidArgsFunction: completeInstances(g, alive),
	}
	cmd.Flags().StringVarP(&signal, "signal", "s", "KILL", "signal to send, by name or number")
	return cmd
}

func runKill(ctx context.Context, g *global, signal string, refs []string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	return each(ctx, g, refs, func(ref string) error { return c.Kill(ctx, ref, signal) })
}
