package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/cmd/berth/internal/parse"
	"github.com/berthcloud/berth/cmd/berth/internal/show"
)

func newNetworkCommand(g *global) *cobra.Command {
	return parent("network", "Segments that instances share",
		newNetworkCreateCommand(g), newNetworkListCommand(g), newInspectOf(g, "network", "NETWORK"),
		newNetworkRemoveCommand(g), newNetworkPruneCommand(g))
}

func newNetworkCreateCommand(g *global) *cobra.Command {
	var pairs []string
	var want api.Network
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] NAME",
		Short: "Make a network and print its name",
		Long: exits(`Make a network and print its name. Instances join it with --network NAME, and
several networks with several. Those of one network reach each other by name;
those of different ones do not, unless a port is published.`),
		Example: "  berth network create --internal backend\n  berth run -d --name db --network backend postgres\n  berth run -d --network default --network backend -p 80:80 web",
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			want.Name = args[0]
			return runNetworkCreate(cmd.Context(), g, want, pairs)
		},
	}
	cmd.Flags().StringVar(&want.Subnet, "subnet", "", "IPv4 addresses, as in 10.20.0.0/24 (default: some that are free)")
	cmd.Flags().BoolVar(&want.Internal, "internal", false, "no way out, and no published ports")
	cmd.Flags().StringArrayVarP(&pairs, "label", "l", nil, "label NAME=VALUE")
	return cmd
}

func runNetworkCreate(ctx context.Context, g *global, want api.Network, pairs []string) (err error) {
	if want.Labels, err = parse.Labels(pairs); err != nil {
		return usage(fmt.Errorf("--label: %w", err))
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	made, err := c.CreateNetwork(ctx, want)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(g.Out, made.Name)
	return err
}

func newNetworkListCommand(g *global) *cobra.Command {
	var quiet bool
	var format string
	cmd := &cobra.Command{
		Use:     "ls [OPTIONS]",
		Aliases: []string{"list"},
		Short:   "List networks",
		Long:    exits("List networks and the instances that belong to them, the default one first."),
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runNetworkList(cmd.Context(), g, quiet, format)
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "only names")
	addFormat(cmd, &format)
	return cmd
}

func runNetworkList(ctx context.Context, g *global, quiet bool, format string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	list, err := c.Networks(ctx)
	if err != nil {
		return err
	}
	if quiet {
		format = "{{.Name}}"
	}
	now := g.now()
	type net = api.Network
	return show.List(g.Out, format, list, []show.Column[net]{
		{Key: "Name", Title: "NAME", Value: func(n net) string { return n.Name }},
		{Key: "Subnet", Title: "SUBNET", Value: func(n net) string { return n.Subnet }},
		{Key: "Gateway", Title: "GATEWAY", Value: func(n net) string { return n.Gateway }},
		{Key: "Internal", Title: "INTERNAL", Value: func(n net) string { return yesNo(n.Internal) }},
		{Key: "Users", Title: "USED BY", Value: func(n net) string { return show.Int(len(n.Users)) + " instances" }},
		{Key: "CreatedAt", Title: "CREATED", Hidden: true, Value: func(n net) string { return show.Ago(n.Created, now) }},
		{Key: "Bridge", Title: "BRIDGE", Hidden: true, Value: func(n net) string { return n.Bridge }},
		{Key: "Labels", Title: "LABELS", Hidden: true, Value: func(n net) string { return labels(n.Labels) }},
	})
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func newNetworkRemoveCommand(g *global) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "rm [OPTIONS] NETWORK [NETWORK...]",
		Aliases: []string{"remove"},
		Short:   "Remove networks",
		Long:    exits("Remove networks. One that instances belong to stays."),
		Args:    args(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runNetworkRemove(cmd.Context(), g, force, args)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "a missing network is no error")
	return cmd
}

func runNetworkRemove(ctx context.Context, g *global, force bool, names []string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	return each(ctx, g, names, func(name string) error { return c.RemoveNetwork(ctx, name, force) })
}

func newNetworkPruneCommand(g *global) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove networks that no instance belongs to",
		Long:  exits("Remove all networks that no instance belongs to, but the default one. Asks first\nunless -f is given."),
		Args:  args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runNetworkPrune(cmd.Context(), g, force)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	return cmd
}

func runNetworkPrune(ctx context.Context, g *global, force bool) error {
	if err := confirm(ctx, g, force, "This removes all networks that no instance belongs to."); err != nil {
		return err
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	list, err := c.Networks(ctx)
	if err != nil {
		return err
	}
	for _, n := range list {
		if len(n.Users) > 0 || n.Name == api.NetworkDefault {
			continue
		}
		if err := c.RemoveNetwork(ctx, n.Name, false); api.IsKind(err, api.InUse) {
			continue // joined between the two requests
		} else if err != nil {
			return err
		}
		fmt.Fprintf(g.Out, "removed network %s\n", n.Name)
	}
	return nil
}
