package cli

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestHelp holds every command to the same form of help.
func TestHelp(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		switch {
		case c.Short == "" || strings.HasSuffix(c.Short, "."):
			t.Errorf("%s: the short help is %q", c.CommandPath(), c.Short)
		case !c.HasSubCommands() && !strings.Contains(c.Long, "EXIT STATUS\n"):
			t.Errorf("%s: the help does not tell the exit statuses", c.CommandPath())
		case !c.HasSubCommands() && c.Flags().HasFlags() && !strings.Contains(c.Use, "[OPTIONS]"):
			t.Errorf("%s has flags, but its usage is %q", c.CommandPath(), c.Use)
		case c.Args == nil:
			t.Errorf("%s takes any arguments", c.CommandPath())
		}
		for line := range strings.SplitSeq(c.Long, "\n") {
			if len(line) > 84 {
				t.Errorf("%s: a line of the help has %d characters: %s", c.CommandPath(), len(line), line)
			}
		}
		for _, child := range c.Commands() {
			walk(child)
		}
	}
	walk(Command())
}

// TestCommands holds the command line to what issue 2 promises.
func TestCommands(t *testing.T) {
	for _, line := range []string{
		"run", "create", "start", "stop", "kill", "restart", "pause", "unpause", "rm", "rename", "ps", "logs", "attach", "exec",
		"inspect", "wait", "stats", "top", "cp", "events", "update", "info", "version", "system prune", "system df",
		"image import", "image ls", "image inspect", "image rm", "image tag", "image export", "save", "load", "image load", "image fsck", "image bootstrap", "image prune",
		"pull", "images", "rmi", "kernel ls", "kernel bootstrap", "volume create", "volume ls", "volume inspect", "volume rm", "volume prune",
		"completion",
	} {
		words := strings.Fields(line)
		c, rest, err := Command().Find(words)
		if err != nil || len(rest) > 0 || c.Name() != words[len(words)-1] {
			t.Errorf("there is no 'berth %s'", line)
		}
	}
}
