package cli

import (
	"context"

	"github.com/spf13/cobra"
)

func newRenameCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "rename INSTANCE NAME",
		Short: "Give an instance another name",
		Long:  exits("Give an instance another name. Other instances find it by the new name."),
		Args:  args(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRename(cmd.Context(), g, args[0], args[1])
		},
		ValidArgsFunction: completeInstances(g, nil),
	}
}

func runRename(ctx context.Context, g *global, ref, name string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	return c.Rename(ctx, ref, name)
}
