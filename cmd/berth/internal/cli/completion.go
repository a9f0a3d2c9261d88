package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/client"
	"github.com/berthcloud/berth/cmd/berth/internal/show"
)

func newCompletionCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:       "completion SHELL",
		Short:     "Print the completion script of a shell: bash, zsh or fish",
		Long:      exits("Print the script that completes berth's commands, flags and names."),
		Example:   "  berth completion bash >/etc/bash_completion.d/berth\n  berth completion zsh >\"${fpath[1]}/_berth\"\n  berth completion fish >~/.config/fish/completions/berth.fish",
		Args:      args(1, 1),
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(cmd *cobra.Command, args []string) error {
			return runCompletion(cmd.Root(), g, args[0])
		},
	}
}

func runCompletion(root *cobra.Command, g *global, shell string) error {
	switch shell {
	case "bash":
		return root.GenBashCompletionV2(g.Out, true)
	case "zsh":
		return root.GenZshCompletion(g.Out)
	case "fish":
		return root.GenFishCompletion(g.Out, true)
	}
	return usage(fmt.Errorf("%q is not a shell berth knows; write bash, zsh or fish", shell))
}

// completer completes the arguments of a command.
type completer = func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective)

// alive and stopped choose the instances that a command makes sense for.
func alive(s api.State) bool   { return s.Alive() }
func stopped(s api.State) bool { return !s.Alive() }

// completeInstances completes names of instances; a nil choice is any.
func completeInstances(g *global, choice func(api.State) bool) completer {
	return func(cmd *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		c, err := g.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		list, err := c.List(cmd.Context(), client.ListOptions{All: true})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []cobra.Completion
		for _, i := range list {
			if strings.HasPrefix(i.Name, prefix) && (choice == nil || choice(i.Status.State)) {
				names = append(names, cobra.CompletionWithDesc(i.Name, status(i.Status, g.now())))
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeImages completes the name of an image as the first argument.
func completeImages(g *global) completer {
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		c, err := g.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		list, err := c.Images(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []cobra.Completion
		for _, i := range list {
			if strings.HasPrefix(i.Name, prefix) {
				names = append(names, cobra.CompletionWithDesc(i.Name, show.Bytes(i.Size)))
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
