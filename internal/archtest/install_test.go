package archtest

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestInstallLeavesNoTrace installs below a directory of its own and takes it
// back: what was there before is there after, and nothing else.
func TestInstallLeavesNoTrace(t *testing.T) {
	if testing.Short() {
		t.Skip("builds every program")
	}
	dest := t.TempDir()
	foreign := filepath.Join(dest, "usr/share/man/man1/foreign.1")
	if err := os.MkdirAll(filepath.Dir(foreign), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(foreign, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	before := list(t, dest)

	for range 2 { // both work twice in a row
		runMake(t, "install", "PREFIX=/usr", "DESTDIR="+dest)
	}
	installed := list(t, dest)
	for _, want := range []string{
		"usr/bin/berth", "usr/bin/berthd", "usr/bin/berth-oci", "usr/bin/berth-agent", "usr/bin/berth-keeper", "usr/bin/berth-rootless",
		"usr/lib/systemd/system/berthd.service", "usr/lib/systemd/user/berthd.service", "usr/lib/sysusers.d/berth.conf",
		"usr/share/man/man1/berth.1", "usr/share/man/man1/berth-run.1",
		"usr/share/bash-completion/completions/berth", "usr/share/zsh/site-functions/_berth",
		"usr/share/fish/vendor_completions.d/berth.fish",
	} {
		if !slices.Contains(installed, want) {
			t.Errorf("not installed: %s", want)
		}
	}
	for _, whose := range []string{"system", "user"} {
		unit, err := os.ReadFile(filepath.Join(dest, "usr/lib/systemd", whose, "berthd.service"))
		if err != nil || !strings.Contains(string(unit), "ExecStart=/usr/bin/berthd\n") || !strings.Contains(string(unit), "KillMode=process\n") {
			t.Errorf("the %s unit does not start the installed berthd, or ends instances with it: %v\n%s", whose, err, unit)
		}
	}

	for range 2 {
		runMake(t, "uninstall", "PREFIX=/usr", "DESTDIR="+dest)
	}
	if after := list(t, dest); !slices.Equal(before, after) {
		t.Errorf("before:\n%s\nafter:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
}

func runMake(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "make", args...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// list returns every name below dir.
func list(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		rel, relErr := filepath.Rel(dir, name)
		names = append(names, rel)
		if err != nil {
			return err
		}
		return relErr
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
