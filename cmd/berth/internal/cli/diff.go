package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/cmd/berth/internal/show"
)

func newDiffCommand(g *global) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "diff [OPTIONS] INSTANCE",
		Short: "List what an instance has changed in its root filesystem",
		Long: exits(`List the files that an instance has added to (A), changed in (C) or deleted from
(D) the root filesystem of its image: what 'berth commit' would put into a layer.
The instance may run or not. What runs in it is held still meanwhile; a VM at
rest is booted without its command, unseen, as only its guest can read its disk.`),
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runDiff(cmd.Context(), g, format, args[0])
		},
		ValidArgsFunction: completeInstances(g, nil),
	}
	addFormat(cmd, &format)
	return cmd
}

// changeLetters are docker's.
var changeLetters = map[api.ChangeKind]string{api.Added: "A", api.Modified: "C", api.Deleted: "D"}

func runDiff(ctx context.Context, g *global, format, ref string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	list, err := c.Diff(ctx, ref)
	if err != nil {
		return err
	}
	if format == "" {
		format = "{{.Kind}} {{.Path}}" // as docker writes it
	}
	return show.List(g.Out, format, list, []show.Column[api.Change]{
		{Key: "Kind", Title: "KIND", Value: func(c api.Change) string { return changeLetters[c.Kind] }},
		{Key: "Path", Title: "PATH", Value: func(c api.Change) string { return api.OneLine(c.Path) }},
	})
}
