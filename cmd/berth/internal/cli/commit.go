package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/client"
)

// commitOptions are the flags of commit.
type commitOptions struct {
	author, message string
	quiet           bool
}

func newCommitCommand(g *global) *cobra.Command {
	var o commitOptions
	cmd := &cobra.Command{
		Use:   "commit [OPTIONS] INSTANCE IMAGE[:TAG]",
		Short: "Make an image of what an instance has changed",
		Long: exits(`Make an image of an instance: the image it was made from and, as one layer more,
what it has changed in its root filesystem since. Volumes are no part of it. An
instance of the new image runs the same command with the same environment.

The instance may run or not. What runs in it is held still meanwhile; a VM at
rest is booted without its command, unseen, as only its guest can read its disk.`),
		Args: args(2, 2),
		Example: `  berth commit web web:configured
  berth commit -m "with git" -a "Ada Lovelace" box debian-git && berth run --rm --vm debian-git git version`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runCommit(cmd.Context(), g, o, args[0], args[1])
		},
		ValidArgsFunction: completeInstances(g, nil),
	}
	f := cmd.Flags()
	f.StringVarP(&o.author, "author", "a", "", "who made it")
	f.StringVarP(&o.message, "message", "m", "", "what was done")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "do not show progress")
	return cmd
}

func runCommit(ctx context.Context, g *global, o commitOptions, ref, image string) error {
	name, err := operate(ctx, g, o.quiet, client.OperationRequest{Commit: &client.CommitRequest{
		Instance: ref, Image: image, Author: o.author, Message: o.message,
	}})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(g.Out, name)
	return err
}
