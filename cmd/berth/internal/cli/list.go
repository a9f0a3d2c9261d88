package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/client"
	"github.com/berthcloud/berth/cmd/berth/internal/parse"
	"github.com/berthcloud/berth/cmd/berth/internal/show"
)

// listOptions are the flags of ps.
type listOptions struct {
	all, quiet, noTrunc, latest bool
	last                        int
	filters                     []string
	format                      string
}

func newListCommand(g *global) *cobra.Command {
	var o listOptions
	cmd := &cobra.Command{
		Use:     "ps [OPTIONS]",
		Aliases: []string{"ls", "list"},
		Short:   "List instances of both kinds",
		Long: exits(`List running instances; with -a also those that do not run.

Filters: name=PART, id=BEGINNING, label=NAME[=VALUE], status=STATE,
kind=container|vm, image=IMAGE. Different keys must all match; of one key any.`),
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runList(cmd.Context(), g, o)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.all, "all", "a", false, "also those that do not run")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "only ids")
	f.BoolVar(&o.noTrunc, "no-trunc", false, "do not shorten")
	f.BoolVarP(&o.latest, "latest", "l", false, "only the newest, running or not")
	f.IntVarP(&o.last, "last", "n", 0, "only the N newest, running or not")
	f.StringArrayVarP(&o.filters, "filter", "f", nil, "only those that match KEY=VALUE")
	addFormat(cmd, &o.format)
	return cmd
}

// addFormat declares --format of a list or an inspection.
func addFormat(cmd *cobra.Command, format *string) {
	cmd.Flags().StringVar(format, "format", "", "json, table, or a Go template")
}

func runList(ctx context.Context, g *global, o listOptions) error {
	filters, err := parse.Filters(o.filters)
	if err != nil {
		return usage(fmt.Errorf("--filter: %w", err))
	}
	if o.latest {
		o.last = 1
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	all := o.all || o.last > 0 || len(filters["status"]) > 0
	list, err := c.List(ctx, client.ListOptions{All: all, Filters: filters})
	if err != nil {
		return err
	}
	if o.last > 0 && len(list) > o.last {
		list = list[:o.last]
	}
	if o.quiet {
		for _, inst := range list {
			fmt.Fprintln(g.Out, show.ShortID(inst.ID, o.noTrunc))
		}
		return nil
	}
	return show.List(g.Out, o.format, list, instanceColumns(g.now(), o.noTrunc))
}

// instanceColumns are the columns of ps, under the keys docker users know.
func instanceColumns(now time.Time, full bool) []show.Column[api.Instance] {
	type inst = api.Instance
	command := func(i inst) string {
		words := slices.Concat(i.Spec.Entrypoint, i.Spec.Command)
		if full {
			return strings.Join(words, " ")
		}
		return show.Ellipsis(strings.Join(words, " "), 24)
	}
	return []show.Column[inst]{
		{Key: "ID", Title: "ID", Value: func(i inst) string { return show.ShortID(i.ID, full) }},
		{Key: "Names", Title: "NAME", Value: func(i inst) string { return i.Name }},
		{Key: "Name", Title: "NAME", Hidden: true, Value: func(i inst) string { return i.Name }},
		{Key: "Kind", Title: "KIND", Value: func(i inst) string { return string(i.Spec.Kind) }},
		{Key: "Image", Title: "IMAGE", Value: func(i inst) string { return i.Spec.Image }},
		{Key: "Command", Title: "COMMAND", Value: command},
		{Key: "CreatedAt", Title: "CREATED AT", Hidden: true, Value: func(i inst) string { return show.Time(i.Created) }},
		{Key: "RunningFor", Title: "CREATED", Value: func(i inst) string { return show.Ago(i.Created, now) }},
		{Key: "State", Title: "STATE", Hidden: true, Value: func(i inst) string { return string(i.Status.State) }},
		{Key: "Status", Title: "STATUS", Value: func(i inst) string { return status(i.Status, now) }},
		{Key: "Address", Title: "ADDRESS", Value: func(i inst) string { return addresses(i.Status) }},
		{Key: "Ports", Title: "PORTS", Value: func(i inst) string { return ports(i.Status.Ports) }},
		{Key: "Labels", Title: "LABELS", Hidden: true, Value: func(i inst) string { return labels(i.Spec.Labels) }},
		{Key: "Virtualization", Title: "VIRTUALIZATION", Hidden: true, Value: func(i inst) string { return string(i.Status.Virtualization) }},
		{Key: "ExitCode", Title: "EXIT CODE", Hidden: true, Value: func(i inst) string {
			if i.Status.ExitCode == nil {
				return ""
			}
			return show.Int(*i.Status.ExitCode)
		}},
		{Key: "Networks", Title: "NETWORKS", Hidden: true, Value: func(i inst) string { return networks(i) }},
		{Key: "Mounts", Title: "MOUNTS", Hidden: true, Value: func(i inst) string { return mounts(i.Spec.Mounts) }},
	}
}

// status writes a state as docker users know it: "Up 5 minutes (healthy)".
func status(s api.Status, now time.Time) string {
	text := strings.ToUpper(string(s.State[:min(1, len(s.State))])) + string(s.State[min(1, len(s.State)):])
	switch s.State {
	case api.Running, api.Paused:
		text = "Up " + show.For(s.Started, now)
		if s.State == api.Paused {
			text += " (paused)"
		} else if s.Health != api.HealthNone {
			text += " (" + string(s.Health) + ")"
		}
	case api.Exited, api.Restarting:
		if s.ExitCode != nil {
			text += fmt.Sprintf(" (%d)", *s.ExitCode)
		}
		if !s.Finished.IsZero() {
			text += " " + show.Ago(s.Finished, now)
		}
	}
	return text
}

// addresses writes the addresses of an instance without prefix lengths.
func addresses(s api.Status) string {
	var list []string
	for _, i := range s.Interfaces {
		address, _, _ := strings.Cut(i.Address, "/")
		list = append(list, address)
	}
	return strings.Join(list, ", ")
}

// ports writes published ports as in 0.0.0.0:8080->80/tcp.
func ports(list []api.Port) string {
	texts := make([]string, len(list))
	for i, p := range list {
		texts[i] = port(p)
	}
	return strings.Join(texts, ", ")
}

func port(p api.Port) string {
	protocol := p.Protocol
	if protocol == "" {
		protocol = "tcp"
	}
	ip := p.HostIP
	switch {
	case ip == "":
		ip = "0.0.0.0"
	case strings.Contains(ip, ":"):
		ip = "[" + ip + "]"
	}
	return fmt.Sprintf("%s:%d->%d/%s", ip, p.HostPort, p.Port, protocol)
}

// labels writes labels as in a=1,b=2, by name.
func labels(m map[string]string) string {
	list := make([]string, 0, len(m))
	for k, v := range m {
		list = append(list, k+"="+v)
	}
	slices.Sort(list)
	return strings.Join(list, ",")
}

func networks(i api.Instance) string {
	names := []string{cmp.Or(i.Spec.Network.Name, api.NetworkDefault)}
	for _, nic := range i.Spec.Network.NICs {
		names = append(names, nic.Network)
	}
	return strings.Join(names, ",")
}

func mounts(list []api.Mount) string {
	texts := make([]string, len(list))
	for i, m := range list {
		texts[i] = m.Target
		if m.Source != "" {
			texts[i] = m.Source
		}
	}
	return strings.Join(texts, ",")
}
