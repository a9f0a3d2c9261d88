package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/client"
)

func newCreateCommand(g *global) *cobra.Command {
	var o specOptions
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short: "Make an instance without starting it",
		Long:  exits("Make an instance and print its id. 'berth start' starts it."),
		Args:  args(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runCreate(cmd.Context(), g, &o, args)
		},
		ValidArgsFunction: completeImages(g),
	}
	o.addFlags(cmd)
	return cmd
}

func runCreate(ctx context.Context, g *global, o *specOptions, args []string) error {
	spec, err := o.spec(g, args)
	if err != nil {
		return usage(err)
	}
	spec.OpenStdin = o.interactive
	return create(ctx, g, o, spec, func(c *client.Client, idFile *idFile) error {
		inst, err := c.Create(ctx, spec)
		if err != nil {
			return err
		}
		if err := idFile.write(inst.ID); err != nil {
			return err
		}
		fmt.Fprintln(g.Out, inst.ID)
		return nil
	})
}

// create has try make an instance, which writes the id file. It pulls the image
// first where the policy says so. A missing image is found out by trying: the common
// case costs one request.
func create(ctx context.Context, g *global, o *specOptions, spec api.Spec, try func(*client.Client, *idFile) error) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	idFile, err := reserveIDFile(o.cidfile)
	if err != nil {
		return err
	}
	defer idFile.release()
	if o.pull == pullAlways {
		if err := pull(ctx, g, spec.Image, pullOptions{quiet: o.quiet, platform: spec.Platform}); err != nil {
			return err
		}
	}
	err = try(c, idFile)
	if (o.pull == pullMissing || o.pull == pullLazy) && api.IsKind(err, api.NotFound) && missing(ctx, c, spec) {
		if !o.quiet {
			fmt.Fprintf(g.Err, "image %s is not in the store; pulling it\n", spec.Image)
		}
		if err := pull(ctx, g, spec.Image, pullOptions{quiet: o.quiet, platform: spec.Platform, lazy: o.pull == pullLazy}); err != nil {
			return err
		}
		err = try(c, idFile)
	}
	return err
}

// missing reports whether the store lacks an image, or has it for another platform,
// as against something else that an instance refers to.
func missing(ctx context.Context, c *client.Client, spec api.Spec) bool {
	img, err := c.Image(ctx, spec.Image)
	if err != nil {
		return api.IsKind(err, api.NotFound)
	}
	return spec.Platform != "" && !strings.HasPrefix(img.Platform+"/", platformOnly(spec.Platform)+"/")
}

// platformOnly is a platform without its variant.
func platformOnly(platform string) string {
	parts := strings.SplitN(platform, "/", 3)
	return strings.Join(parts[:min(2, len(parts))], "/")
}
