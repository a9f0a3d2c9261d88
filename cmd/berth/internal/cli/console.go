package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/client"
	"github.com/berthcloud/berth/cmd/berth/internal/terminal"
)

// consoleOptions are the flags of console.
type consoleOptions struct {
	noStdin    bool
	detachKeys string
}

func newConsoleCommand(g *global) *cobra.Command {
	var o consoleOptions
	cmd := &cobra.Command{
		Use:   "console [OPTIONS] INSTANCE",
		Short: "Connect to the serial console of a VM",
		Long: exits(`Connect the terminal to a VM's serial console, while it boots or runs, until it
ends or the detach keys are typed. The end of what the guest wrote before comes
first. Several terminals may be connected; all of them may type.

What the guest sends goes to the terminal as it is, control sequences included.
A serial line knows no window size: 'stty rows R cols C' in the guest sets it.`),
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runConsole(cmd.Context(), g, o, args[0])
		},
		ValidArgsFunction: completeInstances(g, alive),
	}
	f := cmd.Flags()
	f.BoolVar(&o.noStdin, "no-stdin", false, "only watch")
	f.StringVar(&o.detachKeys, "detach-keys", defaultDetachKeys, "keys that leave it")
	return cmd
}

func runConsole(ctx context.Context, g *global, o consoleOptions, ref string) error {
	keys, err := detachKeys(o.detachKeys)
	if err != nil {
		return err
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	s, restore := client.Streams{Stdout: g.Out}, func() {}
	switch {
	case o.noStdin:
	case terminal.Is(g.In):
		if len(keys) > 0 {
			g.warn("the serial console of " + ref + "; " + o.detachKeys + " leaves it")
		}
		s.Stdin = &terminal.Detacher{R: g.In, Keys: keys}
		if restore, err = terminal.Raw(g.In); err != nil {
			return err
		}
	default:
		s.Stdin = g.In
	}
	exit, err := c.Console(ctx, ref, s)
	restore()
	switch {
	case errors.Is(err, terminal.ErrDetached), ctx.Err() != nil:
		return nil
	case api.IsKind(err, api.Exhausted), api.IsKind(err, api.Unavailable):
		return fmt.Errorf("%w; 'berth console %s' connects again", err, ref)
	case err != nil:
		return err
	case exit.Error != "":
		g.warn(ref + " has ended: " + exit.Error)
	default:
		g.warn(ref + " has ended")
	}
	return nil
}
