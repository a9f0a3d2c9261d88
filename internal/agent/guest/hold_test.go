package guest

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestBesides: frozen is all that is not on the way to the agent's own cgroup, whichever
// init has made that.
func TestBesides(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"init.scope", "user.slice/user-0.slice", "system.slice/ssh.service", "system.slice/berth-agent.service/workload", "workload"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "cgroup.procs"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for own, want := range map[string][]string{
		"":                                 {"init.scope", "system.slice", "user.slice", "workload"},
		"system.slice/berth-agent.service": {"init.scope", "user.slice", "workload", "system.slice/ssh.service", "system.slice/berth-agent.service/workload"},
	} {
		for i := range want {
			want[i] = filepath.Join(root, want[i])
		}
		if got, err := besides(root, own); err != nil || !slices.Equal(got, want) {
			t.Errorf("beside %q: %q, %v; want %q", own, got, err, want)
		}
	}
	if _, err := besides(root, "gone"); err == nil {
		t.Error("a cgroup that is not there")
	}
}

// TestOwnCgroup reads /proc/PID/cgroup of the agent, with v2 alone, beside v1, or without.
func TestOwnCgroup(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cgroup")
	for content, want := range map[string]string{
		"0::/\n": "", "0::/system.slice/berth-agent.service\n": "system.slice/berth-agent.service",
		"12:pids:/a\n1:name=systemd:/b\n0::/c\n": "c", "3:cpu:/x\n": "none", "": "none",
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ownCgroup(file)
		if (err != nil) != (want == "none") || err == nil && got != want {
			t.Errorf("%q: %q, %v; want %s", content, got, err, want)
		}
	}
}
