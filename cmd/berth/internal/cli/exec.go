package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/api"
)

// execOptions are the flags of exec.
type execOptions struct {
	interactive, tty, detach bool
	env, envFiles            []string
	workdir, user            string
	privileged               bool
}

func newExecCommand(g *global) *cobra.Command {
	var o execOptions
	cmd := &cobra.Command{
		Use:     "exec [OPTIONS] INSTANCE COMMAND [ARG...]",
		Short:   "Run a command in a running instance",
		Long:    exits("Run a command in a running container or VM and return its exit status.", exitsOfCommand[:]...),
		Example: "  berth exec -it web sh\n  berth exec -u root -e DEBUG=1 web env",
		Args:    args(2, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runError(runExec(cmd.Context(), g, o, args))
		},
		ValidArgsFunction: completeInstances(g, alive),
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.BoolVarP(&o.interactive, "interactive", "i", false, "connect standard input")
	f.BoolVarP(&o.tty, "tty", "t", false, "give it a terminal")
	f.BoolVarP(&o.detach, "detach", "d", false, "run it in the background")
	f.StringArrayVarP(&o.env, "env", "e", nil, "variable NAME=VALUE, or NAME to pass on the client's")
	f.StringArrayVar(&o.envFiles, "env-file", nil, "read variables from a file")
	f.StringVarP(&o.workdir, "workdir", "w", "", "working directory (default: the instance's)")
	f.StringVarP(&o.user, "user", "u", "", "user, as NAME|UID[:GROUP|GID] (default: the instance's)")
	f.BoolVar(&o.privileged, "privileged", false, "refused; make the instance with --cap-add")
	return cmd
}

func runExec(ctx context.Context, g *global, o execOptions, args []string) error {
	if o.privileged {
		return usage(errors.New("--privileged: Berth has no such mode; make the instance with --cap-add"))
	}
	env := specOptions{env: o.env, envFiles: o.envFiles}
	var merged api.Spec
	if err := env.readEnv(g, &merged); err != nil {
		return usage(err)
	}
	e := api.Exec{
		Command: args[1:], Env: merged.Env, User: o.user, WorkingDir: o.workdir,
		TTY: o.tty, Stdin: o.interactive && !o.detach,
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	if o.detach {
		return c.ExecDetached(ctx, args[0], e)
	}
	f := foreground{tty: o.tty, stdin: o.interactive, stdout: true, stderr: true}
	if err := f.check(g); err != nil {
		return usage(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, size, restore, err := f.streams(ctx, g)
	if err != nil {
		return err
	}
	defer restore()
	e.Size = size
	exit, err := c.Exec(ctx, args[0], e, s)
	restore()
	if err != nil {
		return err
	}
	return exitStatus(g, args[0]+": "+args[1], exit)
}
