package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/cmd/berth/internal/parse"
	"github.com/berthcloud/berth/cmd/berth/internal/show"
)

func newVolumeCommand(g *global) *cobra.Command {
	return parent("volume", "Storage that outlives instances",
		newVolumeCreateCommand(g), newVolumeListCommand(g), newInspectOf(g, "volume", "VOLUME"),
		newVolumeRemoveCommand(g), newVolumePruneCommand(g))
}

func newVolumeCreateCommand(g *global) *cobra.Command {
	var pairs []string
	var size string
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] [NAME]",
		Short: "Make a volume and print its name",
		Long:  exits("Make a volume and print its name; without a name one is made up. With --size it\nis a disk, for VMs' --mount type=disk."),
		Args:  args(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) == 1 {
				name = args[0]
			}
			return runVolumeCreate(cmd.Context(), g, name, size, pairs)
		},
	}
	cmd.Flags().StringArrayVarP(&pairs, "label", "l", nil, "label NAME=VALUE")
	cmd.Flags().StringVar(&size, "size", "", "make a disk of that size, as in 10g")
	return cmd
}

func runVolumeCreate(ctx context.Context, g *global, name, size string, pairs []string) error {
	var bytes int64
	if err := value("--size", size, &bytes, parse.Size); err != nil {
		return usage(err)
	}
	labels, err := parse.Labels(pairs)
	if err != nil {
		return usage(fmt.Errorf("--label: %w", err))
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	v, err := c.CreateVolume(ctx, name, bytes, labels)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(g.Out, v.Name)
	return err
}

func newVolumeListCommand(g *global) *cobra.Command {
	var quiet bool
	var format string
	cmd := &cobra.Command{
		Use:     "ls [OPTIONS]",
		Aliases: []string{"list"},
		Short:   "List volumes",
		Long:    exits("List volumes and the instances that mount them."),
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runVolumeList(cmd.Context(), g, quiet, format)
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "only names")
	addFormat(cmd, &format)
	return cmd
}

func runVolumeList(ctx context.Context, g *global, quiet bool, format string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	list, err := c.Volumes(ctx)
	if err != nil {
		return err
	}
	if quiet {
		format = "{{.Name}}"
	}
	now := g.now()
	type volume = api.Volume
	return show.List(g.Out, format, list, []show.Column[volume]{
		{Key: "Name", Title: "NAME", Value: func(v volume) string { return v.Name }},
		{Key: "CreatedAt", Title: "CREATED", Value: func(v volume) string { return show.Ago(v.Created, now) }},
		{Key: "Size", Title: "SIZE", Value: func(v volume) string { return diskSize(v.Size) }},
		{Key: "Users", Title: "USED BY", Value: func(v volume) string { return show.Int(len(v.Users)) + " instances" }},
		{Key: "Mountpoint", Title: "PATH", Value: func(v volume) string { return v.Path }},
		{Key: "Labels", Title: "LABELS", Hidden: true, Value: func(v volume) string { return labels(v.Labels) }},
	})
}

// diskSize is the size of a volume that is a disk; a file tree has none.
func diskSize(n int64) string {
	if n == 0 {
		return "-"
	}
	return show.Bytes(n)
}

func newVolumeRemoveCommand(g *global) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "rm [OPTIONS] VOLUME [VOLUME...]",
		Aliases: []string{"remove"},
		Short:   "Remove volumes with what they hold",
		Long:    exits("Remove volumes with what they hold. One that an instance mounts stays."),
		Args:    args(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runVolumeRemove(cmd.Context(), g, force, args)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "a missing volume is no error")
	return cmd
}

func runVolumeRemove(ctx context.Context, g *global, force bool, names []string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	return each(ctx, g, names, func(name string) error { return c.RemoveVolume(ctx, name, force) })
}

func newVolumePruneCommand(g *global) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove volumes that no instance mounts",
		Long:  exits("Remove all volumes that no instance mounts, with what they hold. Asks first\nunless -f is given."),
		Args:  args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runVolumePrune(cmd.Context(), g, force)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	return cmd
}

func runVolumePrune(ctx context.Context, g *global, force bool) error {
	if err := confirm(ctx, g, force, "This removes all volumes that no instance mounts."); err != nil {
		return err
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	list, err := c.Volumes(ctx)
	if err != nil {
		return err
	}
	for _, v := range list {
		if len(v.Users) > 0 {
			continue
		}
		if err := c.RemoveVolume(ctx, v.Name, false); api.IsKind(err, api.InUse) {
			continue // mounted between the two requests
		} else if err != nil {
			return err
		}
		fmt.Fprintf(g.Out, "removed volume %s\n", v.Name)
	}
	return nil
}
