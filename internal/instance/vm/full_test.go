package vm_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/link"
)

// full makes a machine of class full.
func (h *harness) full(t *testing.T, process instance.Process) *instance.Prepared {
	p := h.prepare(t, process)
	p.Kernel, p.Spec.VM.Virtualization = h.standard, api.VirtFull
	return p
}

// network gives a machine a network with its host.
func network(t *testing.T, p *instance.Prepared) {
	t.Helper()
	bridge := link.Bridge{Name: "bvm0", MAC: "52:54:00:00:00:01", Address: netip.MustParsePrefix("10.99.0.1/24")}
	if err := link.EnsureBridge(bridge); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { link.Delete("bvm0") })
	p.Interfaces = []instance.Interface{{Name: "eth0", HostName: "bvmtap0", Bridge: "bvm0", MAC: "52:54:00:12:34:56",
		Address: []string{"10.99.0.2/24"}, Gateway: "10.99.0.1"}}
	t.Cleanup(func() { link.Delete("bvmtap0") }) // as the network would
}

// hardware is a script that says what a guest sees: the drivers of its disks and
// network card, virtio devices, the time's and the keyboard's controller.
const hardware = `
	for d in /sys/block/sd*; do basename $(readlink -f $d/device/../../../../driver); done | uniq
	basename $(readlink -f /sys/class/net/eth0/device/driver)
	ls /sys/bus/virtio/devices 2>/dev/null | wc -l
	ls -d /sys/class/rtc/rtc0 /sys/bus/serio/devices/serio0 2>/dev/null
	cat /sys/bus/pci/devices/*/class | grep -c 0x030000
	ping -c 1 -W 5 10.99.0.1 | grep -o "1 packets received"
`

// TestFull boots a machine with nothing but emulated devices, and uses every
// port: outputs, input to its end, calls of the agent while the input stands
// still, files in both directions.
func TestFull(t *testing.T) {
	h := newHarness(t)
	p := h.full(t, sh(hardware+`echo to stderr >&2; echo up; md5sum; exit 7`))
	p.Process.OpenStdin, p.Process.StdinOnce = true, true
	network(t, p)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	run, err := h.driver().Create(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	defer run.Delete(context.WithoutCancel(ctx))
	var out, errs syncBuffer
	input, typed := io.Pipe()
	defer typed.Close()
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- run.(instance.Attacher).Attach(ctx, instance.Streams{Stdin: input, Stdout: &out, Stderr: &errs}, func() { close(ready) })
	}()
	<-ready
	if _, err := run.Start(ctx); err != nil {
		t.Fatal(err)
	}
	out.await(t, "ahci\ne1000\n0\n/sys/bus/serio/devices/serio0\n/sys/class/rtc/rtc0\n1\n1 packets received\nup\n")
	errs.await(t, "to stderr\n")

	data := make([]byte, 40_000)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	half := len(data) / 2
	if _, err := typed.Write(data[:half]); err != nil {
		t.Fatal(err)
	}
	h.throughAgent(t, run)
	if _, err := typed.Write(data[half:]); err != nil {
		t.Fatal(err)
	}
	typed.Close()
	exit, err := run.Wait(ctx)
	if err != nil || exit.Code != 7 || exit.Error != "" {
		t.Errorf("exit %+v, %v", exit, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	out.await(t, fmt.Sprintf("%x", md5.Sum(data)))
}

// throughAgent makes calls that carry bytes of every value.
func (h *harness) throughAgent(t *testing.T, run instance.Handle) {
	t.Helper()
	data := make([]byte, 20<<10)
	for i := range data {
		data[i] = byte(i * i >> 3)
	}
	var out bytes.Buffer
	start := time.Now()
	exit, err := run.(instance.Execer).Exec(t.Context(), api.Exec{Command: []string{"cat"}, Stdin: true},
		instance.Streams{Stdin: bytes.NewReader(data), Stdout: &out})
	if err != nil || exit.Code != 0 || !bytes.Equal(out.Bytes(), data) {
		t.Errorf("exec: %+v, %v, %d bytes of %d", exit, err, out.Len(), len(data))
	}
	t.Logf("%d bytes to the guest and back in %v", len(data), time.Since(start))
	start = time.Now()
	if _, err := run.(instance.Execer).Exec(t.Context(), api.Exec{Command: []string{"true"}}, instance.Streams{}); err != nil {
		t.Error(err)
	}
	t.Logf("exec of true in %v", time.Since(start))
}

// TestMixed boots a paravirtual machine with a disk and a network card that are
// not: an old board with IDE.
func TestMixed(t *testing.T) {
	h := newHarness(t)
	p := h.prepare(t, sh(hardware+`
		layers=$(grep -l berth-layers /sys/block/sd*/device/vpd_pg80 | cut -d/ -f4)
		dd if=/dev/zero of=/dev/$layers bs=4k count=100 conv=notrunc 2>/dev/null && echo layers written
	`))
	p.Kernel = h.standard
	p.Spec.VM = api.VMSpec{Virtualization: api.VirtPara, Machine: api.MachinePC, DiskBus: api.DiskIDE, NICModel: api.NICRTL8139, Firmware: api.FirmwareNone}
	network(t, p)
	before := hash(t, h.layer)
	h.boot(t, p).want(t, strings.Join([]string{
		"ata_piix", "8139cp", "3", "/sys/bus/serio/devices/serio0", "/sys/class/rtc/rtc0", "0", "1 packets received", "layers written", "",
	}, "\n"))
	if hash(t, h.layer) != before {
		t.Error("the guest has changed a layer")
	}
}
