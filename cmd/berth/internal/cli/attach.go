package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/api"
)

// attachOptions are the flags of attach.
type attachOptions struct {
	noStdin    bool
	sigProxy   bool
	detachKeys string
}

func newAttachCommand(g *global) *cobra.Command {
	var o attachOptions
	cmd := &cobra.Command{
		Use:   "attach [OPTIONS] INSTANCE",
		Short: "Connect to the standard streams of a running instance",
		Long: exits(`Connect the terminal to a running instance until it ends or the detach keys
are typed. Output from before is in 'berth logs'.`, exitsOfCommand[:]...),
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runError(runAttach(cmd.Context(), g, o, args[0]))
		},
		ValidArgsFunction: completeInstances(g, alive),
	}
	f := cmd.Flags()
	f.BoolVar(&o.noStdin, "no-stdin", false, "do not connect standard input")
	f.BoolVar(&o.sigProxy, "sig-proxy", true, "pass signals on to it")
	f.StringVar(&o.detachKeys, "detach-keys", defaultDetachKeys, "keys that leave it running in the background")
	return cmd
}

func runAttach(ctx context.Context, g *global, o attachOptions, ref string) error {
	keys, err := detachKeys(o.detachKeys)
	if err != nil {
		return err
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	inst, err := c.Get(ctx, ref)
	if err != nil {
		return err
	}
	if !inst.Status.State.Alive() {
		return api.E("attach", api.Conflict, inst.Name, fmt.Errorf("it is %s; start it with 'berth start -a %s'", inst.Status.State, inst.Name))
	}
	f := foreground{
		keys: keys, sigProxy: o.sigProxy, tty: inst.Spec.TTY,
		stdin: inst.Spec.OpenStdin && !o.noStdin, stdout: true, stderr: true,
	}
	if err := f.check(g); err != nil {
		return usage(err)
	}
	return f.attach(ctx, g, c, inst)
}
