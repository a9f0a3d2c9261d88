package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/cmd/berth/internal/show"
)

func newSnapshotCommand(g *global) *cobra.Command {
	return parent("snapshot", "VMs as they were, with their memory",
		newSnapshotCreateCommand(g), newSnapshotListCommand(g), newSnapshotRestoreCommand(g), newSnapshotRemoveCommand(g))
}

func newSnapshotCreateCommand(g *global) *cobra.Command {
	var volumes bool
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] INSTANCE [NAME]",
		Short: "Keep a VM as it is now, and print the snapshot's name",
		Long: exits("Keep a VM as it is now: its disk and, where it runs, its memory. It stands still\n" +
			"meanwhile. Without a name the snapshot is snap0, or the next that is free."),
		Args: args(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) == 2 {
				name = args[1]
			}
			return runSnapshotCreate(cmd.Context(), g, args[0], name, volumes)
		},
		ValidArgsFunction: completeInstances(g, nil),
	}
	cmd.Flags().BoolVar(&volumes, "volumes", false, "keep the further disks too that it writes to; a restore puts them back")
	return cmd
}

func runSnapshotCreate(ctx context.Context, g *global, ref, name string, volumes bool) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	s, err := c.CreateSnapshot(ctx, ref, name, volumes)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(g.Out, s.Name)
	return err
}

func newSnapshotListCommand(g *global) *cobra.Command {
	var quiet bool
	var format string
	cmd := &cobra.Command{
		Use:     "ls [OPTIONS] INSTANCE",
		Aliases: []string{"list"},
		Short:   "List the snapshots of a VM",
		Long:    exits("List the snapshots of a VM, the oldest first."),
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runSnapshotList(cmd.Context(), g, args[0], quiet, format)
		},
		ValidArgsFunction: completeInstances(g, nil),
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "only names")
	addFormat(cmd, &format)
	return cmd
}

func runSnapshotList(ctx context.Context, g *global, ref string, quiet bool, format string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	list, err := c.Snapshots(ctx, ref)
	if err != nil {
		return err
	}
	if quiet {
		format = "{{.Name}}"
	}
	now := g.now()
	type snapshot = api.Snapshot
	return show.List(g.Out, format, list, []show.Column[snapshot]{
		{Key: "Name", Title: "NAME", Value: func(s snapshot) string { return s.Name }},
		{Key: "CreatedAt", Title: "CREATED", Value: func(s snapshot) string { return show.Ago(s.Created, now) }},
		{Key: "Memory", Title: "MEMORY", Value: func(s snapshot) string { return map[bool]string{true: "yes", false: "no"}[s.Memory] }},
		{Key: "Volumes", Title: "VOLUMES", Value: func(s snapshot) string { return strings.Join(s.Volumes, ",") }},
		{Key: "Size", Title: "SIZE", Value: func(s snapshot) string { return show.Bytes(s.Size) }},
	})
}

func newSnapshotRestoreCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "restore INSTANCE SNAPSHOT",
		Short: "Put a VM back to where it was",
		Long: exits("Put a VM back to where it was when the snapshot was made. What it has become since\n" +
			"is lost. A snapshot with memory goes on from there; one without takes a stopped VM."),
		Args: args(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runSnapshotRestore(cmd.Context(), g, args[0], args[1])
		},
		ValidArgsFunction: completeInstances(g, nil),
	}
}

func runSnapshotRestore(ctx context.Context, g *global, ref, name string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	inst, err := c.RestoreSnapshot(ctx, ref, name)
	g.warn(inst.Status.Notice)
	return err
}

func newSnapshotRemoveCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:     "rm INSTANCE SNAPSHOT [SNAPSHOT...]",
		Aliases: []string{"remove"},
		Short:   "Remove snapshots of a VM",
		Long:    exits("Remove snapshots of a VM. The VM itself and its other snapshots stay."),
		Args:    args(2, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runSnapshotRemove(cmd.Context(), g, args[0], args[1:])
		},
		ValidArgsFunction: completeInstances(g, nil),
	}
}

func runSnapshotRemove(ctx context.Context, g *global, ref string, names []string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	return each(ctx, g, names, func(name string) error { return c.RemoveSnapshot(ctx, ref, name) })
}
