package testenv

import (
	"strings"
	"testing"
)

// TestRack boots two hosts and proves what they are for: cgroup v2 alone, KVM
// that runs a guest's code, AppArmor, a network between them, and a disk that
// survives a power cut.
func TestRack(t *testing.T) {
	if testing.Short() {
		t.Skip("boots VMs")
	}
	Check(t)
	rack := NewRack(t, 2, nil)
	a, b := rack.Hosts[0], rack.Hosts[1]

	want := func(t *testing.T, got, want string) {
		t.Helper()
		if !strings.Contains(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	t.Run("name", func(t *testing.T) { want(t, a.Run(t, "hostname"), "host1") })
	t.Run("cgroup v2", func(t *testing.T) {
		want(t, a.Run(t, "cat", "/sys/fs/cgroup/cgroup.controllers"), "cpuset cpu io memory")
	})
	t.Run("AppArmor", func(t *testing.T) {
		want(t, a.Run(t, "cat", "/sys/kernel/security/lsm"), "apparmor")
	})
	t.Run("KVM", func(t *testing.T) { want(t, a.Run(t, "ls", "/dev/kvm"), "/dev/kvm") })
	t.Run("network", func(t *testing.T) { a.Run(t, "busybox", "ping", "-c1", "-w30", b.Address()) })
	t.Run("modules load by themselves", func(t *testing.T) {
		a.Shell(t, "ip link add br9 type bridge && ip link add v9 type veth peer name w9 && nft add table inet x && nft delete table inet x")
	})
	t.Run("exit code", func(t *testing.T) {
		if _, _, exit, err := a.Try(t.Context(), "sh", "-c", "exit 7"); exit != 7 || err != nil {
			t.Errorf("%d, %v", exit, err)
		}
		if _, _, exit, err := a.Try(t.Context(), "no-such-command"); exit != 127 || err == nil {
			t.Errorf("%d, %v", exit, err)
		}
	})
	t.Run("power cut", func(t *testing.T) {
		a.Shell(t, "echo here > /var/lib/berth/mark && sync")
		a.PowerCut(t)
		want(t, a.Run(t, "cat", "/var/lib/berth/mark"), "here")
	})
}
