package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/cmd/berth/internal/show"
)

func newInfoCommand(g *global) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "info [OPTIONS]",
		Short: "Describe the daemon and its host",
		Long:  exits("Describe the daemon and its host: what runs, what can run, and what cannot\nwith the reason."),
		Args:  args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runInfo(cmd.Context(), g, format)
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "json, or a Go template")
	return cmd
}

func runInfo(ctx context.Context, g *global, format string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	info, err := c.Info(ctx)
	if err != nil {
		return err
	}
	return show.One(g.Out, format, info, func(w io.Writer) error { return printInfo(w, c.Host(), info) })
}

// printInfo writes the description as a list of names and values.
func printInfo(w io.Writer, host string, i api.Info) error {
	total := 0
	for _, n := range i.Instances {
		total += n
	}
	p := func(name, format string, values ...any) {
		fmt.Fprintf(w, "%-18s %s\n", name+":", api.OneLine(fmt.Sprintf(format, values...)))
	}
	p("Daemon", "%s at %s", i.Version, host)
	p("Host", "%s", i.Host)
	p("Kernel", "%s", i.Kernel)
	p("Architecture", "%s", i.Arch)
	p("Processors", "%d", i.CPUs)
	p("Memory", "%s", show.Bytes(i.Memory))
	p("Cgroups", "%s", i.Cgroup)
	p("State directory", "%s", i.Root)
	p("Run directory", "%s", i.Run)
	p("Images", "%d", i.Images)
	p("Instances", "%d", total)
	for _, state := range slices.Sorted(maps.Keys(i.Instances)) {
		p("  "+state, "%d", i.Instances[state])
	}
	for _, kind := range slices.Sorted(maps.Keys(i.Drivers)) {
		why := "yes"
		if i.Drivers[kind] != "" {
			why = i.Drivers[kind]
		}
		p("Kind "+kind, "%s", why)
	}
	p("Hardware virt.", "%s", i.Hardware)
	for _, warning := range i.Warnings {
		p("Warning", "%s", warning)
	}
	return nil
}
