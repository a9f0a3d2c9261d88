package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/client"
	"github.com/berthcloud/berth/cmd/berth/internal/parse"
	"github.com/berthcloud/berth/cmd/berth/internal/show"
)

// convertOptions are the flags of image convert.
type convertOptions struct {
	to, size, init, format string
	quiet                  bool
}

func newImageConvertCommand(g *global) *cobra.Command {
	var o convertOptions
	cmd := &cobra.Command{
		Use:   "convert [OPTIONS] IMAGE NAME",
		Short: "Make the disk of a machine of a root filesystem, or the other way round",
		Long: exits(`Make of an image of layers the disk of a virtual machine, which starts by BIOS and
UEFI anywhere, or of a disk image one of layers, which runs as a container. Prints
the name of what it made; IMAGE stays as it is.

A disk starts the kernel and the init of IMAGE where that has them, and else a
kernel of Berth's with the init or the command of IMAGE. Of a disk the root
filesystem alone is taken, read by a machine of its own: what is on it reaches no
kernel of the host's. docs/disk-images.md says what is left out.`),
		Args: args(2, 2),
		Example: `  berth image convert debian:12 disk/web && berth run --vm disk/web
  berth image convert --size 20g web disk/web && berth image export --format qcow2 -o web.qcow2 disk/web
  berth image convert disk/cloud cloud && berth run --rm -it cloud sh`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runImageConvert(cmd.Context(), g, o, args[0], args[1])
		},
		ValidArgsFunction: completeImages(g),
	}
	f := cmd.Flags()
	f.StringVar(&o.to, "to", "", "what to make: disk, rootfs (default: what IMAGE is not)")
	f.StringVar(&o.size, "size", "", "size of the disk, as in 10g (default: what IMAGE takes; instances have larger ones)")
	f.StringVar(&o.init, "init", "", "what the disk starts: none, the command; system, the init of IMAGE (default: system where IMAGE has a kernel, systemd or an inittab)")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "do not show progress")
	addFormat(cmd, &o.format)
	return cmd
}

func runImageConvert(ctx context.Context, g *global, o convertOptions, ref, name string) error {
	r := client.ConvertRequest{Image: ref, Name: name}
	err := errors.Join(oneOf("--to", o.to, &r.To, "disk", "rootfs"), value("--size", o.size, &r.Size, parse.Size),
		oneOf("--init", o.init, &r.Init, api.InitNone, api.InitSystem))
	if err != nil {
		return usage(err)
	}
	made, err := operate(ctx, g, o.quiet, client.OperationRequest{Convert: &r})
	if err != nil {
		return err
	}
	if o.format == "" {
		_, err = fmt.Fprintln(g.Out, made)
		return err
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	img, err := c.Image(ctx, made)
	if err != nil {
		return err
	}
	return show.One(g.Out, o.format, img, func(io.Writer) error { return nil })
}
