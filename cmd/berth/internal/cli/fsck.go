package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/client"
)

func newImageCheckCommand(g *global) *cobra.Command {
	var r client.CheckRequest
	var quiet bool
	cmd := &cobra.Command{
		Use:   "fsck [OPTIONS]",
		Short: "Read all images and tell what is broken",
		Long: exits(`Read everything that the image store has and tell what is broken: a blob that is
missing, truncated or changed, and a layer whose EROFS image is not its own. With
--repair what is broken is fetched from the registry it came from, and EROFS images
are made anew. Images can be used meanwhile. The exit status is 0 if in the end all
is whole.`),
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runImageCheck(cmd.Context(), g, quiet, r)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&r.Repair, "repair", false, "fetch or make anew what is broken")
	f.BoolVar(&r.Insecure, "insecure", false, "accept plain HTTP and certificates nobody vouches for")
	f.BoolVarP(&quiet, "quiet", "q", false, "do not show progress, nor what is broken")
	return cmd
}

func runImageCheck(ctx context.Context, g *global, quiet bool, r client.CheckRequest) error {
	result, err := operate(ctx, g, quiet, client.OperationRequest{Check: &r})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(g.Out, result)
	return err
}
