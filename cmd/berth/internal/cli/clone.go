package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

func newCloneCommand(g *global) *cobra.Command {
	var name, snapshot string
	cmd := &cobra.Command{
		Use:   "clone [OPTIONS] INSTANCE",
		Short: "Make another VM of a VM, and print its id",
		Long: exits("Make another VM of a VM. It goes on from where that is, or was when a snapshot was\n" +
			"made, with what is on its disk and in its memory; of a stopped VM it has the disk.\n" +
			"Host name, addresses, machine id and ssh host keys are its own, and so is its\n" +
			"randomness. The VM that is cloned stands still for a moment."),
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runClone(cmd.Context(), g, args[0], name, snapshot)
		},
		ValidArgsFunction: completeInstances(g, nil),
	}
	cmd.Flags().StringVar(&name, "name", "", "`NAME` of the clone")
	cmd.Flags().StringVar(&snapshot, "snapshot", "", "begin from this `SNAPSHOT` of the VM")
	return cmd
}

func runClone(ctx context.Context, g *global, ref, name, snapshot string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	inst, err := c.Clone(ctx, ref, name, snapshot)
	g.warn(inst.Status.Notice)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(g.Out, inst.ID)
	return err
}
