package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/client"
)

func newRemoveCommand(g *global) *cobra.Command {
	var o client.RemoveOptions
	cmd := &cobra.Command{
		Use:     "rm [OPTIONS] INSTANCE [INSTANCE...]",
		Aliases: []string{"remove"},
		Short:   "Remove instances with their files and logs",
		Long:    exits("Remove stopped instances with their writable layers and logs. Named volumes stay."),
		Args:    args(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRemove(cmd.Context(), g, o, args)
		},
		ValidArgsFunction: completeInstances(g, nil),
	}
	cmd.Flags().BoolVarP(&o.Force, "force", "f", false, "end what still runs; a missing instance is no error")
	cmd.Flags().BoolVarP(&o.Volumes, "volumes", "v", false, "remove their volumes without a name too")
	return cmd
}

func runRemove(ctx context.Context, g *global, o client.RemoveOptions, refs []string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	return each(ctx, g, refs, func(ref string) error {
		err := c.Remove(ctx, ref, o)
		if o.Force && api.IsKind(err, api.NotFound) {
			g.warn(err.Error())
			return nil
		}
		return err
	})
}
