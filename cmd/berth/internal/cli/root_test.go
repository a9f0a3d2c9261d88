package cli

import "testing"

// TestCommandsByName holds the names by which commands are found to their own.
func TestCommandsByName(t *testing.T) {
	all := newRoot(&global{}, "")
	for _, c := range commands() {
		if got := c.make(&global{}).Name(); got != c.name {
			t.Errorf("%q makes the command %q", c.name, got)
		}
		alone := newRoot(&global{}, c.name)
		if n := len(alone.Commands()); n != 1 {
			t.Errorf("%q makes %d commands", c.name, n)
		}
	}
	if got, want := len(all.Commands()), len(commands()); got != want {
		t.Errorf("%d commands of %d", got, want)
	}
}

func TestCommandWord(t *testing.T) {
	for want, lines := range map[string][][]string{
		"run": {
			{"run", "ps"}, {"-H", "unix:///s", "run", "-d", "base"}, {"--host", "ps", "run"}, {"--host=unix:///s", "run"}, {"-Hunix:///s", "run"},
		},
		"": {{}, {"--help", "run"}, {"-H"}, {"-H", "unix:///s"}, {"--version"}},
	} {
		for _, line := range lines {
			if got := commandWord(line); got != want {
				t.Errorf("%q: %q, want %q", line, got, want)
			}
		}
	}
}
