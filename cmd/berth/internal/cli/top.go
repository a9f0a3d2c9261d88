package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/cmd/berth/internal/show"
)

func newTopCommand(g *global) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "top [OPTIONS] INSTANCE",
		Short: "List the processes of a running instance",
		Long:  exits("List the processes of a running instance, with process ids as it sees them."),
		Args:  args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runTop(cmd.Context(), g, format, args[0])
		},
		ValidArgsFunction: completeInstances(g, alive),
	}
	addFormat(cmd, &format)
	return cmd
}

func runTop(ctx context.Context, g *global, format, ref string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	top, err := c.Top(ctx, ref)
	if err != nil {
		return err
	}
	type process = api.Process
	return show.List(g.Out, format, top.Processes, []show.Column[process]{
		{Key: "PID", Title: "PID", Value: func(p process) string { return show.Int(p.PID) }},
		{Key: "PPID", Title: "PPID", Value: func(p process) string { return show.Int(p.PPID) }},
		{Key: "User", Title: "USER", Value: func(p process) string { return p.User }},
		{Key: "State", Title: "STATE", Value: func(p process) string { return p.State }},
		{Key: "Memory", Title: "MEMORY", Value: func(p process) string { return show.Bytes(p.Memory) }},
		{Key: "Command", Title: "COMMAND", Value: func(p process) string { return p.Command }},
	})
}
