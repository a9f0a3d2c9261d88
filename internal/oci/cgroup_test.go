package oci_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/berthcloud/berth/internal/oci/cgroup"
)

// TestExecIntoDelegatedCgroup has a container divide its cgroup, as systemd does,
// and runs a command in it. What limits it stays out of its reach.
func TestExecIntoDelegatedCgroup(t *testing.T) {
	if !cgroup.Unified() {
		t.Skip("needs cgroup v2: v1 is not delegated")
	}
	b := newBox(t, strings.Join([]string{
		"cd /sys/fs/cgroup", "mkdir inner", "echo $$ >inner/cgroup.procs", "echo +pids >cgroup.subtree_control",
		"echo max >pids.max || echo limits are kept", "cat cgroup.subtree_control", "exec sleep 100",
	}, "\n"))
	b.userNamespace()
	for i, m := range b.spec.Mounts {
		if m.Type == "cgroup" {
			b.spec.Mounts[i].Options = slices.DeleteFunc(m.Options, func(o string) bool { return o == "ro" })
		}
	}
	b.start()
	eventually(t, "it divides its cgroup", func() bool {
		text, err := os.ReadFile(b.log())
		return err == nil && strings.HasSuffix(string(text), "limits are kept\npids\n")
	})
	if out := b.oci("exec", b.id, "cat", "/proc/self/cgroup"); out.stdout != "0::/inner\n" {
		t.Errorf("a command is in %+v", out)
	}
	if out := b.oci("pause", b.id); out.code != 0 || b.status() != "paused" {
		t.Errorf("pause: %+v, %s", out, b.status())
	}
	if out := b.oci("delete", "--force", b.id); out.code != 0 {
		t.Errorf("delete: %+v", out)
	}
	b.nothing()
	if _, err := os.Stat("/sys/fs/cgroup/" + b.id); err == nil {
		t.Error("its cgroup is left")
	}
}

// TestCgroupStaysTheHosts delegates nothing where the container sees its cgroup
// read-only, or has no user namespace of its own.
func TestCgroupStaysTheHosts(t *testing.T) {
	for _, user := range []bool{false, true} {
		b := newBox(t, "mkdir /sys/fs/cgroup/inner /sys/fs/cgroup/pids/inner 2>&1; true")
		if user {
			b.userNamespace()
		}
		if out := b.run(); strings.Count(out.stdout, "Read-only file system")+strings.Count(out.stdout, "No such file") != 2 {
			t.Errorf("user namespace %v: %+v", user, out)
		}
	}
}
