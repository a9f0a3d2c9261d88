package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
)

// startOptions are the flags of start.
type startOptions struct {
	attach, interactive bool
	sigProxy            bool
	detachKeys          string
}

func newStartCommand(g *global) *cobra.Command {
	var o startOptions
	cmd := &cobra.Command{
		Use:   "start [OPTIONS] INSTANCE [INSTANCE...]",
		Short: "Start stopped instances",
		Long: exits("Start stopped instances and print their names; with -a or -i one instance is\nstarted in the foreground and its exit status is returned.",
			"0    success", "1    an instance could not be started", "125  Berth failed (with -a or -i), or the command line is wrong",
			"126  the command cannot be executed (with -a or -i)", "127  the command is not in the image (with -a or -i)",
			"else the exit status of the instance (with -a or -i)"),
		Args: args(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.attach || o.interactive {
				return runError(runStartAttached(cmd.Context(), g, o, args))
			}
			return runStart(cmd.Context(), g, args)
		},
		ValidArgsFunction: completeInstances(g, stopped),
	}
	f := cmd.Flags()
	f.BoolVarP(&o.attach, "attach", "a", false, "show its output and pass signals on")
	f.BoolVarP(&o.interactive, "interactive", "i", false, "connect standard input too")
	f.BoolVar(&o.sigProxy, "sig-proxy", true, "pass signals on to it")
	f.StringVar(&o.detachKeys, "detach-keys", defaultDetachKeys, "keys that leave it running in the background")
	return cmd
}

func runStart(ctx context.Context, g *global, refs []string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	return each(ctx, g, refs, func(ref string) error {
		inst, err := c.Start(ctx, ref)
		g.warn(inst.Status.Notice)
		return err
	})
}

func runStartAttached(ctx context.Context, g *global, o startOptions, refs []string) error {
	if len(refs) != 1 {
		return usage(errors.New("-a and -i take one instance; start the others without them"))
	}
	keys, err := detachKeys(o.detachKeys)
	if err != nil {
		return err
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	inst, err := c.Get(ctx, refs[0])
	if err != nil {
		return err
	}
	f := foreground{
		start: !inst.Status.State.Alive(), keys: keys, sigProxy: o.sigProxy, tty: inst.Spec.TTY,
		stdin: o.interactive && inst.Spec.OpenStdin, stdout: true, stderr: true,
	}
	if err := f.check(g); err != nil {
		return usage(err)
	}
	return f.attach(ctx, g, c, inst)
}
