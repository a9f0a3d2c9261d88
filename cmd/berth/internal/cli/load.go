package cli

import "github.com/spf13/cobra"

// newLoadCommand is 'berth load', docker's way to 'berth image import' of an archive of images.
func newLoadCommand(g *global) *cobra.Command {
	var o imageImportOptions
	var input string
	cmd := &cobra.Command{
		Use:     "load [OPTIONS]",
		Short:   "Read images from an archive",
		Long:    exits("Read images from an archive of docker, podman, skopeo or Berth, compressed or not,\nor the directory of an OCI layout: from standard input or from a file. Prints their\nnames. All of them are there, or after a failure none."),
		Example: "  berth load -i images.tar\n  docker save web | berth load",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runImageImport(cmd.Context(), g, o, input)
		},
	}
	cmd.Flags().StringVarP(&input, "input", "i", "-", "read from a file; - is standard input")
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "do not show progress")
	return cmd
}
