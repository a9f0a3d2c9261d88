package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/client"
	"github.com/berthcloud/berth/cmd/berth/internal/parse"
	"github.com/berthcloud/berth/cmd/berth/internal/show"
)

// eventsOptions are the flags of events.
type eventsOptions struct {
	since, until, format string
	filters              []string
}

func newEventsCommand(g *global) *cobra.Command {
	var o eventsOptions
	cmd := &cobra.Command{
		Use:   "events [OPTIONS]",
		Short: "Show what happens, as it happens",
		Long: exits(`Show what happens to instances, images, volumes and networks until interrupted
or until --until. Filters: type=, action=, name=, id=. --format json prints one
JSON object per line.`),
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runEvents(cmd.Context(), g, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.since, "since", "", "begin with what happened since a time")
	f.StringVar(&o.until, "until", "", "end at a time")
	f.StringArrayVarP(&o.filters, "filter", "f", nil, "only what matches KEY=VALUE")
	addFormat(cmd, &o.format)
	return cmd
}

func runEvents(ctx context.Context, g *global, o eventsOptions) error {
	var eo client.EventOptions
	var err error
	if eo.Since, err = parse.Time(o.since, g.now()); err != nil {
		return usage(fmt.Errorf("--since: %w", err))
	}
	if eo.Until, err = parse.Time(o.until, g.now()); err != nil {
		return usage(fmt.Errorf("--until: %w", err))
	}
	if eo.Filters, err = parse.Filters(o.filters); err != nil {
		return usage(fmt.Errorf("--filter: %w", err))
	}
	if o.format == "json" {
		o.format = "{{json .}}"
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	err = c.Events(ctx, eo, func(e api.Event) error {
		if o.format == "" || o.format == "table" {
			_, err := fmt.Fprintln(g.Out, event(e))
			return err
		}
		return show.One(g.Out, o.format, e, nil)
	})
	return quietly(ctx, err)
}

// event writes an event as one line:
//
//	2026-11-23T15:04:05.123456789Z instance start web 3f2a8c5d7e91 (image=base)
func event(e api.Event) string {
	words := []string{e.Time.UTC().Format("2006-01-02T15:04:05.000000000Z"), e.Type, e.Action}
	if e.Name != "" {
		words = append(words, e.Name)
	}
	if e.ID != "" {
		words = append(words, show.ShortID(e.ID, false))
	}
	if len(e.Detail) > 0 {
		words = append(words, "("+labels(e.Detail)+")")
	}
	return api.OneLine(strings.Join(words, " "))
}
