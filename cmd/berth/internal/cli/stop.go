package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/client"
	"github.com/berthcloud/berth/cmd/berth/internal/parse"
)

// stopOptions are the flags of stop and restart.
type stopOptions struct {
	signal, timeout string
}

func (o *stopOptions) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.signal, "signal", "s", "", "signal that asks it to end (default: the instance's)")
	cmd.Flags().StringVarP(&o.timeout, "time", "t", "", "seconds of grace before SIGKILL; -1 for no bound (default: the instance's)")
}

// read reads the flags.
func (o *stopOptions) read() (client.StopOptions, error) {
	so := client.StopOptions{Signal: o.signal}
	if o.timeout != "" {
		d, err := parse.Seconds(o.timeout)
		if err != nil {
			return so, usage(fmt.Errorf("--time: %w", err))
		}
		so.Timeout = &d
	}
	return so, nil
}

func newStopCommand(g *global) *cobra.Command {
	var o stopOptions
	cmd := &cobra.Command{
		Use:   "stop [OPTIONS] INSTANCE [INSTANCE...]",
		Short: "Ask running instances to end, then end them by force",
		Long:  exits("Send the stop signal to instances, and SIGKILL to those that have not ended\nafter the grace. Returns when they have ended."),
		Args:  args(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runStop(cmd.Context(), g, o, args)
		},
		ValidArgsFunction: completeInstances(g, alive),
	}
	o.addFlags(cmd)
	return cmd
}

func runStop(ctx context.Context, g *global, o stopOptions, refs []string) error {
	so, err := o.read()
	if err != nil {
		return err
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	return each(ctx, g, refs, func(ref string) error { return c.Stop(ctx, ref, so) })
}
