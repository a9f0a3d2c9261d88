package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/client"
)

// runOptions are the flags of run beside those of the instance.
type runOptions struct {
	specOptions
	detach     bool
	sigProxy   bool
	detachKeys string
	attach     []string
}

func newRunCommand(g *global) *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short: "Make an instance and start it",
		Long: exits(`Make an instance from an image and start it: a container, or with --vm a
virtual machine. In the foreground its output is shown, signals are passed on
to it, and its exit status is returned; with -d its id is printed. An image
that is not in the store is pulled.`, exitsOfCommand[:]...),
		Example: `  berth run --rm -it debian:12 bash
  berth run --rm --vm debian:12 uname -a
  berth run -d --name web -p 8080:80 -v /srv/www:/www:ro base httpd -f -p 80 -h /www`,
		Args: args(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runError(runRun(cmd.Context(), g, &o, args))
		},
		ValidArgsFunction: completeImages(g),
	}
	o.addFlags(cmd)
	f := cmd.Flags()
	f.BoolVarP(&o.detach, "detach", "d", false, "run in the background and print the id")
	f.BoolVar(&o.sigProxy, "sig-proxy", true, "pass signals on to it")
	f.StringVar(&o.detachKeys, "detach-keys", defaultDetachKeys, "keys that leave it running in the background")
	f.StringArrayVarP(&o.attach, "attach", "a", nil, "streams to attach: stdin, stdout, stderr (default: output, and input with -i)")
	return cmd
}

func runRun(ctx context.Context, g *global, o *runOptions, args []string) error {
	spec, err := o.spec(g, args)
	if err != nil {
		return usage(err)
	}
	keys, err := detachKeys(o.detachKeys)
	if err != nil {
		return err
	}
	if o.detach && len(o.attach) > 0 {
		return usage(errors.New("-d and -a contradict each other; leave one out"))
	}
	f := foreground{start: true, keys: keys, sigProxy: o.sigProxy, tty: o.tty, stdin: o.interactive, stdout: true, stderr: true}
	if err := f.choose(o.attach); err != nil {
		return usage(err)
	}
	if !o.detach {
		if err := f.check(g); err != nil {
			return usage(err)
		}
	}
	spec.OpenStdin = o.interactive
	spec.StdinOnce = o.interactive && !o.detach
	return create(ctx, g, &o.specOptions, spec, func(c *client.Client, idFile *idFile) error {
		if !o.detach {
			return f.run(ctx, g, c, spec, idFile)
		}
		inst, err := c.RunDetached(ctx, spec)
		if err != nil {
			return err
		}
		if err := idFile.write(inst.ID); err != nil {
			return err
		}
		g.warn(inst.Status.Notice)
		fmt.Fprintln(g.Out, inst.ID)
		return nil
	})
}
