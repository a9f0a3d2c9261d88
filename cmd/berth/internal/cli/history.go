package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/cmd/berth/internal/show"
)

func newImageHistoryCommand(g *global) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "history [OPTIONS] IMAGE",
		Short: "Show the steps in which an image was made",
		Long:  exits("Show the steps in which an image was made, the latest first, with the sizes of\ntheir layers as distributed."),
		Args:  args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runHistory(cmd.Context(), g, format, args[0])
		},
		ValidArgsFunction: completeImages(g),
	}
	addFormat(cmd, &format)
	return cmd
}

func runHistory(ctx context.Context, g *global, format, name string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	img, err := c.Image(ctx, name)
	if err != nil {
		return err
	}
	now := time.Now()
	return show.List(g.Out, format, img.History, []show.Column[api.ImageStep]{
		{Key: "Created", Title: "CREATED", Value: func(s api.ImageStep) string { return show.Ago(s.Created, now) }},
		{Key: "By", Title: "BY", Value: func(s api.ImageStep) string { return s.By }},
		{Key: "Size", Title: "SIZE", Value: func(s api.ImageStep) string { return show.Bytes(s.Size) }},
		{Key: "Comment", Title: "COMMENT", Value: func(s api.ImageStep) string { return s.Comment }},
		{Key: "Author", Title: "AUTHOR", Value: func(s api.ImageStep) string { return s.Author }},
	})
}
