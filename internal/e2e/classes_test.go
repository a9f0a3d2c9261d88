package e2e

import (
	"strings"
	"testing"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/testenv"
)

// classScenarios are about how VMs are virtualized. Hardware virtualization is the
// rack's.
var classScenarios = []scenario{
	{"full virtualization", localOnly, vms, fullVirtualization},
	{"another architecture", localOnly, vms, otherArchitecture},
	{"refused choices", localOnly, vms, refusedChoices},
	{"explain", localOnly, vms, explain},
}

// fullVirtualization lives a whole life with nothing but emulated devices: its
// network, its standard input, calls beside it, a copy, a restart of berthd.
func fullVirtualization(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "old", "--virt", "full", "base", "sh", "-c", "ls /sys/block /sys/bus/virtio/devices; exec httpd -f -p 80 -h /etc")
	if got := w.field(t, "old", "json .Status.Machine"); !strings.Contains(got, `"disk_bus":"ahci","nic_model":"e1000"`) {
		t.Errorf("inspect says of the machine: %s", got)
	}
	w.logged(t, "old", "sdb\n")
	address, _, _ := strings.Cut(w.field(t, "old", "(index .Status.Interfaces 0).Address"), "/")
	if got := testenv.Shell(t, w.Machine, "busybox wget -q -O - http://"+address+"/hostname"); got == "" {
		t.Error("the guest's web server says nothing")
	}
	w.Stop(t)
	w.Start(t)
	expect(t, "exec", w.TryInput(t.Context(), strings.NewReader("to the guest\n"), "exec", "-i", "old", "sh", "-c", "cat; echo err >&2; exit 3"), 3, "to the guest\n")
	expect(t, "run with input", w.TryInput(t.Context(), strings.NewReader("whole\n"),
		run(kind, "--rm", "-i", "--machine", "pc", "--virt", "full", "--disk-bus", "ide", "base", "sh", "-c", "cat; exit 4")...), 4, "whole\n")
	refused(t, "less memory", w.Try(t.Context(), "update", "--memory", "256m", "old"), 1, "old", "balloon", "stop it first")
}

// otherArchitecture runs an image of arm64 on whatever the host is.
func otherArchitecture(t *testing.T, w *world, kind api.Kind) {
	expect(t, "run", w.Try(t.Context(), run(kind, "--rm", "--platform", "linux/arm64", "base:arm64", "uname", "-m")...), 0, "aarch64\n")
	refused(t, "as a container", w.Try(t.Context(), run(api.Container, "--rm", "base:arm64", "true")...), 125, "base:arm64", "arm64", "--vm")
	refused(t, "the host's platform", w.Try(t.Context(), run(kind, "--rm", "--pull=never", "--platform", "linux/amd64", "base:arm64")...), 125, "base:arm64", "linux/arm64", "berth pull --platform linux/amd64")
}

func refusedChoices(t *testing.T, w *world, kind api.Kind) {
	for args, words := range map[string][]string{
		"--virt hardware":                      {"hardware", "choose auto or para"},
		"--virt full -v /tmp:/x":               {"/tmp", "virtiofs", "--virt para"},
		"--virt full --disk-bus virtio":        {"virtio", "--virt para"},
		"--virt full --machine microvm":        {"microvm", "PCI", "--machine q35"},
		"--virt full --kernel debian-cloud":    {"ahci", "--kernel", "debian-standard"},
		"--kernel debian-cloud:arm64":          {"debian-cloud:arm64", "arm64", "amd64", "--kernel"},
		"--kernel none":                        {"kernel/none", "berth kernel"},
		"--machine virt":                       {"virt", "amd64", "--machine"},
		"--machine microvm --nic-model e1000":  {"microvm", "e1000", "--machine q35"},
		"--machine microvm --firmware bios":    {"microvm", "BIOS", "--machine q35"},
		"--machine q35 --disk-bus ide":         {"q35", "IDE", "--disk-bus ahci"},
		"--machine microvm --graphics":         {"microvm", "display", "--machine q35"},
		"--firmware uefi":                      {"UEFI", "--firmware"},
		"--cpu-model host":                     {"host", "hardware virtualization", "--cpu-model"},
		"--cpu-model Zen9":                     {"Zen9", "amd64", "--cpu-model"},
		"--cpu-model max,file=/etc/shadow,x=y": {"max,file=/etc/shadow", "model"},
	} {
		r := w.Try(t.Context(), run(kind, append(append([]string{"--rm"}, strings.Fields(args)...), "base", "true")...)...)
		refused(t, args, r, 125, words...)
	}
}

// explain tells of a VM that never ran what it would be, and of a container that
// there is nothing to tell.
func explain(t *testing.T, w *world, kind api.Kind) {
	w.Berth(t, "create", "--vm", "--name", "plan", "--nic-model", "e1000", "base")
	t.Cleanup(func() { w.remove(t, "plan") })
	said := w.Berth(t, "explain", "plan")
	for _, want := range []string{"(created)", "para", "q35", "e1000", "kernel/debian-standard", "hardware  needs", "para      chosen", "full      possible"} {
		if !strings.Contains(said, want) {
			t.Errorf("explain does not say %q:\n%s", want, said)
		}
	}
	w.Berth(t, "create", "--name", "box", "base")
	t.Cleanup(func() { w.remove(t, "box") })
	refused(t, "a container", w.Try(t.Context(), "explain", "box"), 1, "box", "container", "--vm")
}
