package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

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
	{"template", localOnly, vms, template},
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

// startCopy starts an instance once there is a template of which it is a copy.
func (w *world) startCopy(t *testing.T, kind api.Kind, name string, args ...string) {
	t.Helper()
	create := run(kind, append([]string{"--name", name}, args...)...)
	create[0] = "create"
	w.Berth(t, create...)
	t.Cleanup(func() { w.remove(t, name) })
	testenv.Eventually(t, 3*time.Minute, func() error {
		if said := w.Berth(t, "explain", name); !strings.Contains(said, "a copy of template") {
			return fmt.Errorf("there is no template for %s:\n%s", name, said)
		}
		return nil
	})
	w.Berth(t, "start", name)
}

// template starts a VM as a copy of a template, and lives its life through the death
// of berthd; and removes the template.
func template(t *testing.T, w *world, kind api.Kind) {
	w.Berth(t, run(kind, "--rm", "base", "true")...)
	templates := func() string {
		_, count, _ := strings.Cut(w.Berth(t, "system", "df", "--format", "{{.Type}} {{.TotalCount}}/{{.Active}}"), "templates ")
		return strings.TrimSpace(count)
	}
	w.startCopy(t, kind, "copy", "base", "sh", "-c", "echo up; exec sleep 1000")
	id := w.field(t, "copy", ".Status.Machine.Template")
	if said := w.Berth(t, "explain", "copy"); id == "" || !strings.Contains(said, "a copy of template "+id) {
		t.Fatalf("template %q; explain says:\n%s", id, said)
	}
	if got := templates(); !strings.HasSuffix(got, "/1") {
		t.Errorf("system df counts templates %s", got)
	}
	w.logged(t, "copy", "up\n")
	w.Kill(t)
	w.Start(t)
	expect(t, "exec", w.Try(t.Context(), "exec", "copy", "echo", "here"), 0, "here\n")
	w.Berth(t, "stop", "copy")
	w.Berth(t, "start", "copy")
	if again := w.field(t, "copy", ".Status.Machine.Template"); again != id {
		t.Errorf("started again from %q, not %q", again, id)
	}
	w.Berth(t, "update", "--memory", "256m", "copy")
	if said := w.Berth(t, "system", "prune", "-f", "--templates"); !strings.Contains(said, "removed template "+id) {
		t.Errorf("prune says %q", said)
	}
	expect(t, "exec without the template", w.Try(t.Context(), "exec", "copy", "echo", "here"), 0, "here\n")
	w.start(t, kind, "booted", "--cold-boot", "base", "sleep", "1000")
	if said := w.Berth(t, "explain", "booted"); !strings.Contains(said, "--cold-boot asks for a boot") {
		t.Errorf("explain says:\n%s", said)
	}
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
		"--machine microvm --watchdog":         {"microvm", "watchdog", "--machine q35"},
		"--on-crash sleep":                     {"--on-crash", "sleep", "pause"},
		"--on-crash restart":                   {"--rm", "--on-crash restart"},
		"--machine microvm --tpm":              {"microvm", "TPM", "--machine q35"},
		"--firmware bios --tpm":                {"SeaBIOS", "TPM", "--firmware"},
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
