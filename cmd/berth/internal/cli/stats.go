package cli

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/client"
	"github.com/berthcloud/berth/cmd/berth/internal/show"
	"github.com/berthcloud/berth/cmd/berth/internal/terminal"
)

// statsPeriod is the time between two measurements, and so the time over which
// a share of the processor is measured.
const statsPeriod = time.Second

// statsOptions are the flags of stats.
type statsOptions struct {
	all, noStream, noTrunc bool
	format                 string
}

func newStatsCommand(g *global) *cobra.Command {
	var o statsOptions
	cmd := &cobra.Command{
		Use:   "stats [OPTIONS] [INSTANCE...]",
		Short: "Show what instances use, live",
		Long: exits(`Show what instances use of the host, renewed each second until interrupted;
without arguments all that run. CPU % counts one processor as 100 %. Of a VM the
memory is what its guest uses.`),
		Args: args(0, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return quietly(cmd.Context(), runStats(cmd.Context(), g, o, args))
		},
		ValidArgsFunction: completeInstances(g, alive),
	}
	f := cmd.Flags()
	f.BoolVar(&o.noStream, "no-stream", false, "measure once and end")
	f.BoolVarP(&o.all, "all", "a", false, "also those that do not run")
	f.BoolVar(&o.noTrunc, "no-trunc", false, "do not shorten")
	addFormat(cmd, &o.format)
	return cmd
}

// usageLine is one line of stats: a measurement, and the one before it.
type usageLine struct {
	api.Stats
	CPUShare float64 `json:"cpu_share"` // of one processor, since the measurement before
}

func runStats(ctx context.Context, g *global, o statsOptions, refs []string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	before, err := measure(ctx, c, refs, o.all)
	if err != nil {
		return err
	}
	live := !o.noStream && terminal.Is(g.Out) && (o.format == "" || strings.HasPrefix(o.format, "table"))
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(statsPeriod):
		}
		now, err := measure(ctx, c, refs, o.all)
		if err != nil {
			return err
		}
		var b strings.Builder
		if live {
			b.WriteString("\x1b[H\x1b[2J") // home, erase the screen
		}
		if err := show.List(&b, o.format, shares(before, now), statsColumns(o.noTrunc)); err != nil {
			return err
		}
		if _, err := fmt.Fprint(g.Out, b.String()); err != nil || o.noStream {
			return err
		}
		before = now
	}
}

// measure measures the named instances, or all that run, at the same time.
func measure(ctx context.Context, c *client.Client, refs []string, all bool) ([]api.Stats, error) {
	named := len(refs) > 0
	var idle []api.Stats
	if !named {
		list, err := c.List(ctx, client.ListOptions{All: all})
		if err != nil {
			return nil, err
		}
		for _, inst := range list {
			switch {
			case inst.Status.State == api.Running, inst.Status.State == api.Paused:
				refs = append(refs, inst.ID)
			case all:
				idle = append(idle, api.Stats{ID: inst.ID, Name: inst.Name})
			}
		}
	}
	stats := make([]api.Stats, len(refs))
	errs := make([]error, len(refs))
	var wg sync.WaitGroup
	for i, ref := range refs {
		wg.Go(func() { stats[i], errs[i] = c.Stats(ctx, ref) })
	}
	wg.Wait()
	measured := make([]api.Stats, 0, len(refs)+len(idle))
	for i, err := range errs {
		switch {
		case err == nil:
			measured = append(measured, stats[i])
		case named || api.IsKind(err, api.Canceled):
			return nil, err
		} // else it ended between the two requests
	}
	return append(measured, idle...), nil
}

// shares computes the share of a processor between two measurements.
func shares(before, now []api.Stats) []usageLine {
	earlier := map[string]api.Stats{}
	for _, s := range before {
		earlier[s.ID] = s
	}
	lines := make([]usageLine, 0, len(now))
	for _, s := range now {
		line := usageLine{Stats: s}
		if e, ok := earlier[s.ID]; ok {
			if span := s.Time.Sub(e.Time); span > 0 {
				line.CPUShare = float64(s.CPU-e.CPU) / float64(span)
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// statsColumns are the columns of stats, under the keys docker users know.
func statsColumns(full bool) []show.Column[usageLine] {
	type line = usageLine
	return []show.Column[line]{
		{Key: "ID", Title: "ID", Value: func(l line) string { return show.ShortID(l.ID, full) }},
		{Key: "Name", Title: "NAME", Value: func(l line) string { return l.Name }},
		{Key: "CPUPerc", Title: "CPU %", Value: func(l line) string { return show.Percent(l.CPUShare, 1) }},
		{Key: "MemUsage", Title: "MEM USAGE / LIMIT", Value: func(l line) string {
			return show.Bytes(l.Memory) + " / " + show.Bytes(l.MemoryLimit)
		}},
		{Key: "MemPerc", Title: "MEM %", Value: func(l line) string { return show.Percent(float64(l.Memory), float64(l.MemoryLimit)) }},
		{Key: "NetIO", Title: "NET I/O", Value: func(l line) string { return show.Bytes(l.NetRx) + " / " + show.Bytes(l.NetTx) }},
		{Key: "BlockIO", Title: "BLOCK I/O", Value: func(l line) string { return show.Bytes(l.DiskRead) + " / " + show.Bytes(l.DiskWrite) }},
		{Key: "PIDs", Title: "PIDS", Value: func(l line) string { return show.Int(l.PIDs) }},
		{Key: "HostMemory", Title: "HOST MEMORY", Hidden: true, Value: func(l line) string { return show.Bytes(l.HostMemory) }},
	}
}
