package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// The groups of commands in the help.
const (
	groupInstances = "instances"
	groupImages    = "images"
	groupHost      = "host"
)

// command is one command of the first level.
type command struct {
	group, name string
	make        func(*global) *cobra.Command
}

// commands are all of them, in the order of the help.
func commands() []command {
	return []command{
		{groupInstances, "run", newRunCommand},
		{groupInstances, "create", newCreateCommand},
		{groupInstances, "start", newStartCommand},
		{groupInstances, "stop", newStopCommand},
		{groupInstances, "kill", newKillCommand},
		{groupInstances, "restart", newRestartCommand},
		{groupInstances, "pause", newPauseCommand},
		{groupInstances, "unpause", newUnpauseCommand},
		{groupInstances, "suspend", newSuspendCommand},
		{groupInstances, "resume", newResumeCommand},
		{groupInstances, "snapshot", newSnapshotCommand},
		{groupInstances, "clone", newCloneCommand},
		{groupInstances, "rm", newRemoveCommand},
		{groupInstances, "rename", newRenameCommand},
		{groupInstances, "update", newUpdateCommand},
		{groupInstances, "ps", newListCommand},
		{groupInstances, "logs", newLogsCommand},
		{groupInstances, "attach", newAttachCommand},
		{groupInstances, "console", newConsoleCommand},
		{groupInstances, "vga", newVGACommand},
		{groupInstances, "exec", newExecCommand},
		{groupInstances, "inspect", newInspectCommand},
		{groupInstances, "explain", newExplainCommand},
		{groupInstances, "wait", newWaitCommand},
		{groupInstances, "stats", newStatsCommand},
		{groupInstances, "top", newTopCommand},
		{groupInstances, "cp", newCopyCommand},
		{groupInstances, "diff", newDiffCommand},
		{groupInstances, "commit", newCommitCommand},
		{groupImages, "image", newImageCommand},
		{groupImages, "build", newBuildCommand},
		{groupImages, "builder", newBuilderCommand},
		{groupImages, "pull", newPullCommand},
		{groupImages, "push", newPushCommand},
		{groupImages, "images", newImagesCommand},
		{groupImages, "save", newSaveCommand},
		{groupImages, "load", newLoadCommand},
		{groupImages, "rmi", func(g *global) *cobra.Command { return newRemoveImageCommand(g, "rmi") }},
		{groupImages, "kernel", newKernelCommand},
		{groupImages, "volume", newVolumeCommand},
		{groupImages, "network", newNetworkCommand},
		{groupHost, "events", newEventsCommand},
		{groupHost, "info", newInfoCommand},
		{groupHost, "version", newVersionCommand},
		{groupHost, "system", newSystemCommand},
		{groupHost, "completion", newCompletionCommand},
	}
}

// commandWord returns the word of a command line that names the command, or ""
// where there is none, or something other than the daemon's address before it.
func commandWord(args []string) string {
	for len(args) > 0 {
		switch a := args[0]; {
		case a == "-H" || a == "--host":
			args = args[min(2, len(args)):]
		case strings.HasPrefix(a, "-H") || strings.HasPrefix(a, "--host="):
			args = args[1:]
		case strings.HasPrefix(a, "-"):
			return ""
		default:
			return a
		}
	}
	return ""
}

// newRoot returns the tree of commands: with the one named word alone where there is
// such a one, since to make all of them with their flags takes as long as a short
// command does, and else, as for the help, with all.
func newRoot(g *global, word string) *cobra.Command {
	root := &cobra.Command{
		Use:   "berth",
		Short: "Run containers and virtual machines from the same images",
		Long: `Berth runs containers and virtual machines from the same images, with the same
commands: 'berth run IMAGE' runs a container, 'berth run --vm IMAGE' a VM.

ENVIRONMENT
  BERTH_HOST   the daemon to talk to, as in unix:///run/berth/berthd.sock

EXIT STATUS
  0    success
  1    the daemon refused or failed; one line on standard error says why
  125  the command line is wrong; for run, exec, start -a and attach: Berth failed
  126  run, exec: the command cannot be executed
  127  run, exec: the command is not in the image
  else run, exec, start -a, attach, wait: the exit status of the command itself`,
		Args:              subcommandOnly,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true, DisableDefaultCmd: true},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage(fmt.Errorf("%w; see '%s --help'", err, cmd.CommandPath()))
	})
	root.PersistentFlags().StringVarP(&g.host, "host", "H", "", "daemon to talk to (default $BERTH_HOST, else the user's own, else unix:///run/berth/berthd.sock)")
	root.AddGroup(
		&cobra.Group{ID: groupInstances, Title: "Instances:"},
		&cobra.Group{ID: groupImages, Title: "Images and volumes:"},
		&cobra.Group{ID: groupHost, Title: "The host:"},
	)
	all := commands()
	if i := slices.IndexFunc(all, func(c command) bool { return c.name == word }); i >= 0 {
		all = all[i : i+1]
	}
	for _, c := range all {
		made := c.make(g)
		made.GroupID = c.group
		root.AddCommand(made)
	}
	plainUsage(root)
	return root
}

// plainUsage keeps cobra from adding "[flags]" to usage lines that say
// [OPTIONS] where docker users expect it.
func plainUsage(cmd *cobra.Command) {
	cmd.DisableFlagsInUseLine = true
	for _, c := range cmd.Commands() {
		plainUsage(c)
	}
}

// subcommandOnly refuses an argument to a command that only has subcommands.
func subcommandOnly(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := ""
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf("did you mean '%s %s'? ", cmd.CommandPath(), near[0])
	}
	return usage(fmt.Errorf("%q is not a command of '%s'; %ssee '%s --help'", args[0], cmd.CommandPath(), hint, cmd.CommandPath()))
}

// parent makes a command that only has subcommands.
func parent(use, short string, children ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  subcommandOnly,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(children...)
	return c
}

// args checks the number of arguments: at least low, at most high (-1: any).
func args(low, high int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch n := len(args); {
		case n < low:
			return usage(fmt.Errorf("'%s' needs %s; usage: %s", cmd.CommandPath(), count(low, high), cmd.UseLine()))
		case high >= 0 && n > high:
			return usage(fmt.Errorf("'%s' takes %s, and %q is one too many; usage: %s", cmd.CommandPath(), count(low, high), args[high], cmd.UseLine()))
		}
		return nil
	}
}

// count says how many arguments.
func count(low, high int) string {
	plural := func(n int) string {
		switch n {
		case 0:
			return "no argument"
		case 1:
			return "1 argument"
		}
		return fmt.Sprintf("%d arguments", n)
	}
	switch {
	case high < 0:
		return "at least " + plural(low)
	case low == high:
		return plural(low)
	}
	return fmt.Sprintf("%d to %s", low, plural(high))
}

// exits is the last part of a command's long help.
func exits(text string, statuses ...string) string {
	if len(statuses) == 0 {
		statuses = []string{"0    success", "1    the daemon refused or failed", "125  the command line is wrong"}
	}
	return text + "\n\nEXIT STATUS\n  " + strings.Join(statuses, "\n  ")
}

// exitsOfCommand are the statuses of what returns the user's command's own.
var exitsOfCommand = [...]string{
	"125  Berth failed, or the command line is wrong",
	"126  the command cannot be executed",
	"127  the command is not in the image",
	"else the exit status of the command itself; 128 + N after signal N",
}
