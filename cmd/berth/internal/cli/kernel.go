package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/client"
	"github.com/berthcloud/berth/cmd/berth/internal/parse"
)

func newKernelCommand(g *global) *cobra.Command {
	return parent("kernel", "What virtual machines boot", newKernelListCommand(g), newKernelBootstrapCommand(g))
}

func newKernelListCommand(g *global) *cobra.Command {
	var o imageListOptions
	cmd := &cobra.Command{
		Use:     "ls [OPTIONS]",
		Aliases: []string{"list"},
		Short:   "List guest kernels",
		Long:    exits("List guest kernels. A VM names one with --kernel."),
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runImageList(cmd.Context(), g, o, func(i api.Image) bool { return i.Type == typeKernel })
		},
	}
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "only names")
	addFormat(cmd, &o.format)
	return cmd
}

func newKernelBootstrapCommand(g *global) *cobra.Command {
	var quiet bool
	var platform string
	cmd := &cobra.Command{
		Use:   "bootstrap [OPTIONS] [cloud|standard]",
		Short: "Make a guest kernel from the distribution's packages",
		Long: exits(`Make a guest kernel from Debian's cloud kernel (the default) or its standard
kernel, which also drives fully emulated devices. Nothing is installed on the
host. One for another architecture has it as its tag, as in
kernel/debian-cloud:arm64.`),
		Args:      args(0, 1),
		ValidArgs: []string{"cloud", "standard"},
		RunE: func(cmd *cobra.Command, args []string) error {
			flavor := "cloud"
			if len(args) == 1 {
				flavor = args[0]
			}
			return runKernelBootstrap(cmd.Context(), g, quiet, flavor, platform)
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "do not show progress")
	cmd.Flags().StringVar(&platform, "platform", "", "platform, as in linux/arm64 (default: the host's)")
	return cmd
}

func runKernelBootstrap(ctx context.Context, g *global, quiet bool, flavor, platform string) error {
	if flavor != "cloud" && flavor != "standard" {
		return usage(fmt.Errorf("%q is not a flavor of kernel; write cloud or standard", flavor))
	}
	if err := value("--platform", platform, &platform, parse.Platform); err != nil {
		return usage(err)
	}
	result, err := operate(ctx, g, quiet, client.OperationRequest{Kernel: &client.KernelRequest{Flavor: flavor, Platform: platform}})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(g.Out, result)
	return err
}
