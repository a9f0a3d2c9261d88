package vm

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// host is a host that emulates.
func host() instance.Host {
	return instance.Host{
		Arch: "amd64", CPUs: 4, Memory: 8 << 30, TSCKHz: 2596096, QEMU: map[string]string{"amd64": "/usr/bin/qemu-system-x86_64", "arm64": "/usr/bin/qemu-system-aarch64"},
		CPUModels: map[string][]string{"amd64": {"qemu64", "EPYC", "max"}, "arm64": {"cortex-a57", "max"}},
		Virtiofsd: "/usr/lib/qemu/virtiofsd", KVMReason: "the host has no /dev/kvm",
	}
}

// prepared is a VM with one of everything.
func prepared() *instance.Prepared {
	return &instance.Prepared{
		ID: "0123456789ab",
		Spec: api.Spec{
			Name: "web", Kind: api.VM, Limits: api.Limits{CPUs: 1.5, Memory: 1 << 30, PIDs: 100, CPUWeight: 200},
			Ulimits: []api.Ulimit{{Name: "nofile", Soft: 1024, Hard: -1}},
		},
		Process: instance.Process{Args: []string{"httpd", "-f"}, Env: []string{"PATH=/bin"}, User: "web", WorkingDir: "/srv", OpenStdin: true},
		Rootfs:  instance.Rootfs{Layers: []string{"/store/a", "/store/b"}, Disk: "/var/i/root.raw", DiskSize: 10 << 30},
		Interfaces: []instance.Interface{{Network: "default", Name: "eth0", HostName: "bt0123", Bridge: "berth0", MAC: "52:54:00:00:00:01",
			Address: []string{"10.88.0.5/24"}, Gateway: "10.88.0.1"}},
		Mounts: []instance.Mount{
			{Type: api.MountBind, Source: "/home/web", Target: "/srv/www", ReadOnly: true},
			{Type: api.MountTmpfs, Target: "/run/web", Size: 1 << 20, Mode: 0o1777},
		},
		Users:    instance.IDRange{First: 64100, Size: 1},
		Hostname: "web", DNS: []string{"10.88.0.1"}, Hosts: []instance.HostsEntry{{Address: "10.88.0.5", Names: []string{"web"}}},
		Kernel: instance.Kernel{Release: "6.1.0", Vmlinux: "/k/vmlinux", Modules: "/k/modules"},
		Dir:    "/var/i", RunDir: "/run/i", Cgroup: "/berth/0123",
	}
}

// golden compares got with testdata/name.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("differs from %s:\n%s", path, got)
	}
}

func TestPlanGolden(t *testing.T) {
	full := prepared()
	full.Spec.VM.Virtualization, full.Mounts = api.VirtFull, full.Mounts[1:]
	arm := prepared()
	arm.Arch = "arm64"
	disks := prepared()
	disks.Spec.VM.KSM = true
	disks.Mounts = []instance.Mount{
		{Type: api.MountDisk, Name: "data", Source: "/volumes/data/disk.raw", Target: "/srv/data", Size: 20 << 30},
		{Type: api.MountDisk, Name: "a-name-that-no-serial-number-holds", Source: "/volumes/long/disk.raw", Size: 1 << 30, ReadOnly: true},
	}
	h := host()
	h.KSM = true
	for name, p := range map[string]*instance.Prepared{"plan": prepared(), "full": full, "arm64": arm, "disks": disks} {
		got, err := New(Config{Cache: "/var/cache"}).Plan(p, h)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name+".golden", append(got, '\n'))
	}
}

// TestChoices writes down what each wish becomes on hosts of three kinds: a
// machine, or why there is none.
func TestChoices(t *testing.T) {
	emulating, hardware, arm := host(), host(), host()
	hardware.KVM, hardware.KVMReason = true, "a probe guest ran in KVM"
	arm.Arch = "arm64"
	var b strings.Builder
	for _, h := range []struct {
		name string
		host instance.Host
	}{{"without KVM", emulating}, {"with KVM", hardware}, {"arm64", arm}} {
		fmt.Fprintf(&b, "== host %s\n", h.name)
		for _, wish := range []string{
			"", "auto", "hardware", "para", "full", "half",
			"para machine=q35", "para machine=pc", "para machine=virt", "para machine=isapc", "para arch=arm64", "full arch=arm64",
			"hardware arch=arm64", "auto arch=arm64 machine=q35", "auto arch=riscv64",
			"para disk=ahci", "para disk=ide", "para disk=ide machine=q35", "para disk=ahci machine=microvm", "para disk=nvme", "para arch=arm64 disk=ide",
			"para nic=e1000", "para nic=rtl8139 machine=pc", "para nic=ne2k", "hardware nic=e1000e disk=ahci",
			"full machine=pc disk=ide", "full machine=microvm", "full disk=virtio", "full nic=virtio", "full firmware=none",
			"para firmware=bios", "para firmware=bios machine=microvm", "para firmware=uefi", "para firmware=coreboot", "para arch=arm64 firmware=bios",
			"para graphics", "full graphics", "para graphics machine=microvm", "para tpm", "para tpm machine=microvm", "full tpm", "para watchdog", "para crash=pause", "para crash=pause machine=microvm", "para crash=sleep", "para tpm firmware=bios", "para graphics arch=arm64",
			"disk=image", "para disk=image firmware=uefi", "full disk=image", "disk=image machine=microvm", "disk=image firmware=none",
			"disk=image arch=arm64", "disk=image arch=arm64 firmware=uefi", "disk=image kernel=x",
			"disk=image os=windows", "hardware disk=image os=windows", "hardware disk=image os=windows cpu=EPYC,hv-relaxed=on", "disk=image os=windows diskbus=virtio nic=virtio",
			"full disk=image os=windows", "os=windows", "disk=image os=windows arch=arm64", "disk=image os=windows machine=microvm", "disk=image os=windows kernel=x", "disk=image os=beos", "os=linux",
			"para cpu=EPYC,+svm", "para cpu=host", "hardware cpu=host", "hardware cpu=EPYC", "para cpu=Zen9", "para arch=arm64 cpu=max",
		} {
			p := prepared()
			wishFor(p, wish)
			m, err := choose(p, h.host)
			if err != nil {
				fmt.Fprintf(&b, "%-36s  %s: %s\n", wish, api.KindOf(err), err)
				continue
			}
			crash := map[bool]string{true: "on crash " + string(m.OnCrash) + ", "}[m.OnCrash != ""] + map[bool]string{true: "watchdog, "}[m.Watchdog]
			extra := crash + map[bool]string{true: "graphics, "}[m.Graphics] + map[bool]string{true: "TPM, "}[m.TPM]
			fmt.Fprintf(&b, "%-36s  %s %s %s %s disk %s, nic %s, firmware %s, %scpu %s (%s)\n", wish, m.Virtualization, m.Accelerator, m.Arch,
				m.Type, m.DiskBus, m.NICModel, m.Firmware, extra, m.CPUModel, m.Reason)
		}
	}
	golden(t, "choices.golden", []byte(b.String()))
}

// wishFor puts a wish of TestChoices into a specification.
func wishFor(p *instance.Prepared, wish string) {
	for word := range strings.FieldsSeq(wish) {
		name, value, _ := strings.Cut(word, "=")
		switch vm := &p.Spec.VM; name {
		case "machine":
			vm.Machine = api.MachineType(value)
		case "arch":
			p.Arch = value
		case "kernel":
			vm.Kernel = value
		case "disk":
			if value == "image" {
				p.Rootfs.Image = &instance.DiskImage{Firmware: api.FirmwareBIOS}
				continue
			}
			vm.DiskBus = api.DiskBus(value)
		case "diskbus":
			vm.DiskBus = api.DiskBus(value)
		case "os":
			vm.GuestOS = api.GuestOS(value)
		case "nic":
			vm.NICModel = api.NICModel(value)
		case "firmware":
			vm.Firmware = api.Firmware(value)
		case "cpu":
			vm.CPUModel = value
		case "graphics":
			vm.Graphics = true
		case "tpm":
			vm.TPM = true
		case "watchdog":
			vm.Watchdog = true
		case "crash":
			vm.OnCrash = api.CrashPolicy(value)
		default:
			vm.Virtualization = api.Virtualization(name)
		}
	}
}

// TestPlanRefuses gives bad input: each gets its kind and one line that names
// the instance and the way out.
func TestPlanRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*instance.Prepared, *instance.Host)
		kind   api.ErrorKind
		says   string
	}{
		"no command":        {func(p *instance.Prepared, _ *instance.Host) { p.Process.Args = nil }, api.Invalid, "no command"},
		"no QEMU":           {func(_ *instance.Prepared, h *instance.Host) { h.QEMU = nil }, api.Unsupported, "qemu-system-x86"},
		"no arm64 QEMU":     {func(p *instance.Prepared, h *instance.Host) { p.Arch = "arm64"; delete(h.QEMU, "arm64") }, api.Unsupported, "install qemu-system-arm"},
		"riscv64":           {func(p *instance.Prepared, _ *instance.Host) { p.Arch = "riscv64" }, api.Unsupported, "only for amd64 and arm64"},
		"other kernel":      {func(p *instance.Prepared, _ *instance.Host) { p.Kernel.Arch, p.Kernel.Name = "arm64", "k" }, api.Invalid, "the kernel k is for arm64"},
		"no kernel":         {func(p *instance.Prepared, _ *instance.Host) { p.Kernel = instance.Kernel{} }, api.NotFound, "berth kernel"},
		"little memory":     {func(p *instance.Prepared, _ *instance.Host) { p.Spec.Limits.Memory = 4 << 20 }, api.Invalid, "at least 96 MiB"},
		"much memory":       {func(p *instance.Prepared, _ *instance.Host) { p.Spec.Limits.Memory = 1 << 40 }, api.Exhausted, "8192 MiB"},
		"many CPUs":         {func(p *instance.Prepared, _ *instance.Host) { p.Spec.Limits.CPUs = 4.5 }, api.Exhausted, "5 CPUs"},
		"host network":      {func(p *instance.Prepared, _ *instance.Host) { p.HostNet = true }, api.Unsupported, "default network"},
		"hardware":          {func(p *instance.Prepared, _ *instance.Host) { p.Spec.VM.Virtualization = api.VirtHardware }, api.Unsupported, "no /dev/kvm"},
		"unknown":           {func(p *instance.Prepared, _ *instance.Host) { p.Spec.VM.Virtualization = "half" }, api.Invalid, "half"},
		"full with a share": {func(p *instance.Prepared, _ *instance.Host) { p.Spec.VM.Virtualization = api.VirtFull }, api.Unsupported, "no virtiofs"},
		"full arm64 input": {func(p *instance.Prepared, _ *instance.Host) {
			p.Spec.VM.Virtualization, p.Arch, p.Mounts = api.VirtFull, "arm64", nil
		}, api.Unsupported, "add -t"},
		"bad model":        {func(p *instance.Prepared, h *instance.Host) { p.Spec.VM.CPUModel, h.CPUModels = "max,x=/dev/sda", nil }, api.Invalid, "no processor model"},
		"many layers":      {func(p *instance.Prepared, _ *instance.Host) { p.Rootfs.Layers = make([]string, 200) }, api.Unsupported, "200 layers"},
		"no virtiofsd":     {func(_ *instance.Prepared, h *instance.Host) { h.Virtiofsd = "" }, api.Unsupported, "qemu-system-common"},
		"no KSM":           {func(p *instance.Prepared, _ *instance.Host) { p.Spec.VM.KSM = true }, api.Unsupported, "no KSM"},
		"KSM with a share": {func(p *instance.Prepared, h *instance.Host) { p.Spec.VM.KSM, h.KSM = true, true }, api.Unsupported, "leave that or --ksm out"},
		"no swtpm":         {func(p *instance.Prepared, _ *instance.Host) { p.Spec.VM.TPM = true }, api.Unsupported, "install swtpm"},
		"undelegated":      {func(_ *instance.Prepared, h *instance.Host) { h.UIDs = []instance.IDRange{{Size: 65537}} }, api.Unsupported, "controller cpu"},
		"unknown ulimit":   {func(p *instance.Prepared, _ *instance.Host) { p.Spec.Ulimits[0].Name = "files" }, api.Invalid, "files"},
	} {
		p, h := prepared(), host()
		c.change(p, &h)
		_, err := New(Config{}).Plan(p, h)
		if !api.IsKind(err, c.kind) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "web") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v (kind %s); want kind %s and %q", name, err, api.KindOf(err), c.kind, c.says)
		}
	}
}

// TestPlanOfUsers limits the QEMU of an ordinary user's daemon by what is delegated.
func TestPlanOfUsers(t *testing.T) {
	h, p := host(), prepared()
	h.UIDs, h.Controllers = []instance.IDRange{{Size: 65537}}, []string{"memory"}
	p.Spec.Limits = api.Limits{CPUs: 2, Memory: 256 << 20}
	got, err := newPlan(p, h, "")
	if err != nil {
		t.Fatal(err)
	}
	if r := got.Limits; r.Memory == nil || r.CPU.Quota != nil {
		t.Errorf("with memory delegated the limits are %+v", r)
	}
	if got.machine.CPUs != 2 || got.machine.Memory != 256<<20 {
		t.Errorf("the machine has %d processors and %d bytes", got.machine.CPUs, got.machine.Memory)
	}
}

// TestAutoVirtualization decides, and tells a user of what was decided without being
// asked, and only then.
func TestAutoVirtualization(t *testing.T) {
	for _, c := range []struct {
		kvm    bool
		asked  api.Virtualization
		want   api.Virtualization
		notice string
	}{
		{true, "", api.VirtHardware, ""},
		{false, "", api.VirtPara, "no hardware virtualization: the host has no /dev/kvm"},
		{false, api.VirtAuto, api.VirtPara, "no hardware virtualization: the host has no /dev/kvm"},
		{true, api.VirtPara, api.VirtPara, ""},
	} {
		h, p := host(), prepared()
		h.KVM, p.Spec.VM.Virtualization = c.kvm, c.asked
		got, err := newPlan(p, h, "")
		if err != nil {
			t.Fatal(err)
		}
		if got.Machine.Virtualization != c.want || got.Notice != c.notice {
			t.Errorf("KVM %v, %q: %s, %q", c.kvm, c.asked, got.Machine.Virtualization, got.Notice)
		}
	}
}

// TestExplain names for each class what it gives, or what it would take.
func TestExplain(t *testing.T) {
	e, err := New(Config{}).Explain(prepared(), host())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range e.Classes {
		got = append(got, fmt.Sprintf("%s %v %v %s", c.Virtualization, c.Chosen, c.Possible, c.Reason))
	}
	want := []string{
		"hardware false false the host has no /dev/kvm",
		"para true true " + gives[api.VirtPara],
		"full false false full virtualization has no virtiofs, by which a VM mounts /home/web: choose --virt para, or copy with berth cp",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// TestManyDevices takes a board with room for them, unless one was asked for.
func TestManyDevices(t *testing.T) {
	p := prepared()
	p.Interfaces = slices.Repeat(p.Interfaces, 20)
	if got, err := newPlan(p, host(), ""); err != nil || got.Machine.Type != api.MachineQ35 || got.machine.Type != "q35" {
		t.Errorf("%v", err)
	}
	p.Spec.VM.Machine = api.MachineMicroVM
	if _, err := newPlan(p, host(), ""); err == nil || !strings.Contains(err.Error(), "at most 16") {
		t.Errorf("%v", err)
	}
}

func TestLastWords(t *testing.T) {
	for said, want := range map[string]string{
		"":                                     "",
		"one\ntwo\n":                           "two",
		"[1] Kernel panic - x\r\nRebooting":    "Kernel panic - x",
		"bell \a\n" + strings.Repeat("x", 300): strings.Repeat("x", 200),
	} {
		if got := lastWords(said); got != want {
			t.Errorf("lastWords(%q) = %q, want %q", said, got, want)
		}
	}
}
