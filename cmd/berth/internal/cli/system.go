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
	"github.com/berthcloud/berth/cmd/berth/internal/show"
	"github.com/berthcloud/berth/cmd/berth/internal/terminal"
)

func newSystemCommand(g *global) *cobra.Command {
	return parent("system", "Look after the host's storage", newPruneCommand(g), newUsageCommand(g))
}

// pruneOptions are the flags of system prune.
type pruneOptions struct {
	client.PruneOptions
	force  bool
	format string
}

func newPruneCommand(g *global) *cobra.Command {
	var o pruneOptions
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove stopped instances, and what nothing uses",
		Long:  exits("Remove stopped instances with their files; with -a also images that no\ninstance uses, with --volumes also volumes that no instance mounts. Asks first\nunless -f is given."),
		Args:  args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runPrune(cmd.Context(), g, o)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Images, "all", "a", false, "also images that no instance uses")
	f.BoolVar(&o.Volumes, "volumes", false, "also volumes that no instance mounts")
	f.BoolVar(&o.Templates, "templates", false, "also the saved machines that VMs begin as copies of; boots make them anew")
	f.BoolVarP(&o.force, "force", "f", false, "do not ask")
	addFormat(cmd, &o.format)
	return cmd
}

func runPrune(ctx context.Context, g *global, o pruneOptions) error {
	what := "all stopped instances"
	if o.Images {
		what += ", all images that no instance uses"
	}
	if o.Volumes {
		what += ", all volumes that no instance mounts"
	}
	if o.Templates {
		what += ", all templates of VMs"
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

// diskUsage is one line of system df.
type diskUsage struct {
	Type   string `json:"type"`
	Total  int    `json:"total"`
	Active int    `json:"active"` // in use
	Size   int64  `json:"size"`   // bytes; -1 where nobody counts them
}

func newUsageCommand(g *global) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "df [OPTIONS]",
		Short: "Show how many images, instances, volumes and templates there are, and their size",
		Long:  exits("Show how many images, instances, volumes and templates of VMs there are, how many\nare in use, and what images and templates take. Layers that images share are counted\nwith each."),
		Args:  args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runUsage(cmd.Context(), g, format)
		},
	}
	addFormat(cmd, &format)
	return cmd
}

func runUsage(ctx context.Context, g *global, format string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	images, err := c.Images(ctx)
	if err != nil {
		return err
	}
	instances, err := c.List(ctx, client.ListOptions{All: true})
	if err != nil {
		return err
	}
	volumes, err := c.Volumes(ctx)
	if err != nil {
		return err
	}
	templates, err := c.Templates(ctx)
	if err != nil {
		return err
	}
	used := map[string]bool{}   // digests that instances were made from
	copied := map[string]bool{} // templates that VMs which run began from
	rows := []diskUsage{
		{Type: "images", Total: len(images)},
		{Type: "instances", Total: len(instances), Size: -1},
		{Type: "volumes", Total: len(volumes), Size: -1},
		{Type: "templates", Total: len(templates)},
	}
	for _, i := range instances {
		used[i.Digest], used[i.Spec.Image] = true, true
		if i.Status.State.Alive() {
			rows[1].Active++
			if m := i.Status.Machine; m != nil {
				copied[m.Template] = true
			}
		}
	}
	for _, i := range images {
		rows[0].Size += i.Size
		if used[i.Digest] || used[i.Name] {
			rows[0].Active++
		}
	}
	for _, v := range volumes {
		if len(v.Users) > 0 {
			rows[2].Active++
		}
	}
	for _, t := range templates {
		rows[3].Size += t.Size
		if copied[t.ID] {
			rows[3].Active++
		}
	}
	type row = diskUsage
	return show.List(g.Out, format, rows, []show.Column[row]{
		{Key: "Type", Title: "TYPE", Value: func(r row) string { return r.Type }},
		{Key: "TotalCount", Title: "TOTAL", Value: func(r row) string { return show.Int(r.Total) }},
		{Key: "Active", Title: "ACTIVE", Value: func(r row) string { return show.Int(r.Active) }},
		{Key: "Size", Title: "SIZE", Value: func(r row) string { return show.Bytes(r.Size) }},
	})
}
