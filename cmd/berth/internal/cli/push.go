package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/client"
)

// pushOptions are the flags of push.
type pushOptions struct {
	quiet    bool
	insecure bool
	format   string
	level    int
}

func newPushCommand(g *global) *cobra.Command {
	var o pushOptions
	cmd := &cobra.Command{
		Use:   "push [OPTIONS] IMAGE [IMAGE...]",
		Short: "Put images into their registries",
		Long: exits(`Put images of any type, root filesystems, disks of VMs, guest kernels, into the
registries in their names, and print the names. What a registry has already is not
sent again, and what breaks off goes on where it stopped. Layers go as they are;
those that were made here and are not compressed are compressed with gzip, and a
disk is cut into chunks. Afterwards the name means here, too, what was pushed. The
credentials are those that the docker configuration of the daemon's user has for
the registry.`),
		Args: args(1, -1),
		Example: `  berth image tag debian-git registry.example.com/team/debian-git:1
  berth push registry.example.com/team/debian-git:1`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runPush(cmd.Context(), g, o, args)
		},
		ValidArgsFunction: completeImages(g),
	}
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "do not show progress")
	cmd.Flags().BoolVar(&o.insecure, "insecure", false, "accept plain HTTP and certificates nobody vouches for")
	cmd.Flags().StringVar(&o.format, "compression-format", "", "compress all layers with gzip, or with zstd, which docker reads since 23")
	cmd.Flags().IntVar(&o.level, "compression-level", 0, "level of compression: 1 to 9 for gzip, 1 to 22 for zstd (default: the usual one)")
	return cmd
}

func runPush(ctx context.Context, g *global, o pushOptions, images []string) error {
	return eachResult(ctx, g, images, func(image string) (string, error) {
		return operate(ctx, g, o.quiet, client.OperationRequest{Push: &client.PushRequest{
			Image: image, Insecure: o.insecure, CompressionFormat: o.format, CompressionLevel: o.level,
		}})
	})
}
