package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/client"
	"github.com/berthcloud/berth/cmd/berth/internal/show"
)

// inspector looks objects of one type up.
type inspector struct {
	kind string // as in --type
	get  func(ctx context.Context, c *client.Client, ref string) (any, error)
}

// inspectors are the types of object, in the order they are tried.
func inspectors() []inspector {
	return []inspector{
		{"instance", func(ctx context.Context, c *client.Client, ref string) (any, error) { return c.Get(ctx, ref) }},
		{"image", func(ctx context.Context, c *client.Client, ref string) (any, error) { return c.Image(ctx, ref) }},
		{"volume", func(ctx context.Context, c *client.Client, ref string) (any, error) { return c.Volume(ctx, ref) }},
		{"network", func(ctx context.Context, c *client.Client, ref string) (any, error) { return c.Network(ctx, ref) }},
		{"operation", func(ctx context.Context, c *client.Client, ref string) (any, error) { return c.Operation(ctx, ref) }},
	}
}

func newInspectCommand(g *global) *cobra.Command {
	var format, kind string
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] NAME|ID [NAME|ID...]",
		Short: "Show all there is to know of instances, images, volumes, networks, operations",
		Long: exits(`Show objects in full, as a JSON array or by a Go template over the type of
package api, as in --format '{{.Status.State}}'. A name is looked for among
instances, then images, volumes, networks and operations, unless --type says where.`),
		Args: args(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runInspect(cmd.Context(), g, kind, format, args)
		},
		ValidArgsFunction: completeInstances(g, nil),
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "json, or a Go template")
	cmd.Flags().StringVar(&kind, "type", "", "instance, image, volume, network or operation")
	return cmd
}

func runInspect(ctx context.Context, g *global, kind, format string, refs []string) error {
	tried := inspectors()
	if kind != "" {
		tried = slices.DeleteFunc(tried, func(i inspector) bool { return i.kind != kind })
		if len(tried) == 0 {
			return usage(fmt.Errorf("--type: %q is not known; write instance, image, volume, network or operation", kind))
		}
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	objects, failed := []any{}, false
	for _, ref := range refs {
		o, err := find(ctx, c, tried, ref)
		if err != nil {
			report(g.Err, err)
			failed = true
			continue
		}
		objects = append(objects, o)
	}
	if err := show.Inspect(g.Out, format, objects); err != nil {
		return err
	}
	if failed {
		return &exitError{code: exitFailed}
	}
	return nil
}

// find looks a reference up by each inspector in turn.
func find(ctx context.Context, c *client.Client, tried []inspector, ref string) (any, error) {
	for _, i := range tried {
		o, err := i.get(ctx, c, ref)
		if err == nil || !api.IsKind(err, api.NotFound) && !api.IsKind(err, api.Invalid) {
			return o, err
		}
		if len(tried) == 1 {
			return nil, err
		}
	}
	return nil, api.E("inspect", api.NotFound, ref, errors.New("no instance, image, volume or operation has this name; see 'berth ps -a' and 'berth images'"))
}

// newInspectOf makes the inspect command of one type of object.
func newInspectOf(g *global, kind, arg string) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   fmt.Sprintf("inspect [OPTIONS] %s [%s...]", arg, arg),
		Short: "Show all there is to know of " + kind + "s",
		Long:  exits("Show " + kind + "s in full, as a JSON array or by a Go template over the type of\npackage api."),
		Args:  args(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runInspect(cmd.Context(), g, kind, format, args)
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "json, or a Go template")
	return cmd
}
