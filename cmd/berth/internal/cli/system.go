package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/client"
	"github.com/berthcloud/berth/cmd/berth/internal/parse"
	"github.com/berthcloud/berth/cmd/berth/internal/show"
	"github.com/berthcloud/berth/cmd/berth/internal/terminal"
)

func newSystemCommand(g *global) *cobra.Command {
	return parent("system", "Look after the host's storage", newPruneCommand(g), newUsageCommand(g))
}

// pruneOptions are the flags of system prune.
type pruneOptions struct {
	client.PruneOptions
	filters []string
	force   bool
	format  string
}

func newPruneCommand(g *global) *cobra.Command {
	var o pruneOptions
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove stopped instances, and what nothing uses",
		Long: exits(`Remove stopped instances with their files, images without a tag, and what of the
cache of builds no build uses now; with -a also images that no instance uses, with
--volumes also volumes that no instance mounts. What others have pushed to this
host's registry stays, and the cache of builds where there is a filter. Asks first
unless -f is given.

Filters: until=24h, until=2026-01-31T12:00:00Z (created before that), label=KEY,
label=KEY=VALUE, label!=KEY.`),
		Example: "  berth system prune -a -f --filter until=240h --filter label!=keep",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runPrune(cmd.Context(), g, o)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Images, "all", "a", false, "also images that no instance uses")
	f.BoolVar(&o.Volumes, "volumes", false, "also volumes that no instance mounts")
	f.StringArrayVar(&o.filters, "filter", nil, "only what matches KEY=VALUE")
	f.BoolVar(&o.Templates, "templates", false, "also the saved machines that VMs begin as copies of; boots make them anew")
	f.BoolVarP(&o.force, "force", "f", false, "do not ask")
	addFormat(cmd, &o.format)
	return cmd
}

func runPrune(ctx context.Context, g *global, o pruneOptions) error {
	what := "all stopped instances and images without a tag"
	if o.BuildCache = len(o.filters) == 0; o.BuildCache { // it has neither labels nor one age
		what += ", the cache of builds"
	}
	if o.Images {
		what += ", all images that no instance uses"
	}
	if o.Volumes {
		what += ", all volumes that no instance mounts"
	}
	if o.Templates {
		what += ", all templates of VMs"
	}
	return prune(ctx, g, what, o)
}

// prune asks whether to remove what is named, and does.
func prune(ctx context.Context, g *global, what string, o pruneOptions) error {
	filters, err := parse.Filters(o.filters)
	if err != nil {
		return usage(fmt.Errorf("--filter: %w", err))
	}
	o.Filters = filters
	if len(filters) > 0 {
		what += ", as far as they match the filter"
	}
	if err := confirm(ctx, g, o.force, "This removes "+what+"."); err != nil {
		return err
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	pruned, err := c.Prune(ctx, o.PruneOptions)
	if err != nil {
		return err
	}
	return printPruned(g, o.format, pruned)
}

// printPruned says what was removed.
func printPruned(g *global, format string, p api.Pruned) error {
	if format == "json" {
		return show.JSON(g.Out, p)
	}
	for _, list := range []struct {
		kind  string
		names []string
	}{{"instance", p.Instances}, {"image", p.Images}, {"volume", p.Volumes}, {"template", p.Templates}} {
		for _, name := range list.names {
			fmt.Fprintf(g.Out, "removed %s %s\n", list.kind, name)
		}
	}
	_, err := fmt.Fprintf(g.Out, "freed %s\n", show.Bytes(p.Bytes))
	return err
}

// confirm asks the user before something that cannot be taken back.
func confirm(ctx context.Context, g *global, force bool, what string) error {
	if force {
		return nil
	}
	if !terminal.Is(g.In) {
		return usage(errors.New("standard input is not a terminal, so nobody can be asked; add --force"))
	}
	fmt.Fprintf(g.Err, "%s Go on? [y/N] ", what)
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(g.In).ReadString('\n')
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case a := <-answer:
		if a != "y" && a != "yes" {
			return errors.New("nothing was removed")
		}
		return nil
	}
}

func newUsageCommand(g *global) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "df [OPTIONS]",
		Short: "Show what images, instances, volumes, templates and builds take of the disk",
		Long: exits(`Show how many images, instances, volumes and templates of VMs there are, how many
are in use, what they take of the disk, and what pruning would free of that. Blobs
that images share are counted once; instances with their writable layers, logs and
snapshots.`),
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runUsage(cmd.Context(), g, format)
		},
	}
	addFormat(cmd, &format)
	return cmd
}

// usageRow is one line of system df.
type usageRow struct {
	Type string `json:"type"`
	api.UsageRow
}

func runUsage(ctx context.Context, g *global, format string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	u, err := c.Usage(ctx)
	if err != nil {
		return err
	}
	rows := []usageRow{
		{"images", u.Images}, {"instances", u.Instances}, {"volumes", u.Volumes}, {"build cache", u.BuildCache}, {"templates", u.Templates},
	}
	return show.List(g.Out, format, rows, []show.Column[usageRow]{
		{Key: "Type", Title: "TYPE", Value: func(r usageRow) string { return r.Type }},
		{Key: "TotalCount", Title: "TOTAL", Value: func(r usageRow) string { return show.Int(r.Total) }},
		{Key: "Active", Title: "ACTIVE", Value: func(r usageRow) string { return show.Int(r.Active) }},
		{Key: "Size", Title: "SIZE", Value: func(r usageRow) string { return show.Bytes(r.Size) }},
		{Key: "Reclaimable", Title: "RECLAIMABLE", Value: func(r usageRow) string { return show.Bytes(r.Reclaimable) }},
	})
}
