package cli

import (
	"context"

	"github.com/spf13/cobra"
)

func newBuilderCommand(g *global) *cobra.Command {
	return parent("builder", "Look after the cache of builds", newBuilderPruneCommand(g))
}

// builderPruneOptions are the flags of builder prune.
type builderPruneOptions struct {
	force  bool
	format string
}

func newBuilderPruneCommand(g *global) *cobra.Command {
	var o builderPruneOptions
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove the cache of builds",
		Long: exits(`Remove what builds have made that no build uses now: results of steps, and the
content of cache mounts. Images stay. By itself the cache is kept below a tenth of
its filesystem; what was used least recently goes. 'berth system df' tells its size.`),
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runBuilderPrune(cmd.Context(), g, o)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.force, "force", "f", false, "do not ask")
	addFormat(cmd, &o.format)
	return cmd
}

func runBuilderPrune(ctx context.Context, g *global, o builderPruneOptions) error {
	if err := confirm(ctx, g, o.force, "This removes all of the build cache."); err != nil {
		return err
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	pruned, err := c.PruneBuildCache(ctx)
	if err != nil {
		return err
	}
	return printPruned(g, o.format, pruned)
}
