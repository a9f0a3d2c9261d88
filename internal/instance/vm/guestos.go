package vm

import (
	"fmt"
	"strings"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// chooseGuest completes a wish by what a guest of another system than Linux has drivers
// for. Windows brings those of AHCI and e1000e, and none of virtio; it is installed and
// used by its display, and its current versions want a TPM.
func chooseGuest(want api.VMSpec, arch string, disk bool, host instance.Host) (api.VMSpec, error) {
	switch want.GuestOS {
	case "", api.GuestLinux:
		return want, nil
	case api.GuestWindows:
	default:
		return want, api.E("", api.Invalid, "", fmt.Errorf("unknown guest system %q: choose linux or windows", want.GuestOS))
	}
	switch {
	case !disk:
		return want, unsupported("an image of layers gets a kernel of Linux: leave --guest-os out, or start a disk image")
	case arch != "amd64":
		return want, unsupported("there is no plan for Windows on %s: leave --guest-os out", arch)
	case want.Machine == api.MachineMicroVM:
		return want, unsupported("Windows has no drivers for a microvm: choose --machine q35 or pc, or leave it out")
	}
	if want.DiskBus == "" {
		want.DiskBus = api.DiskAHCI
	}
	if want.NICModel == "" {
		want.NICModel = api.NICE1000E
	}
	want.Graphics = true
	want.TPM = want.TPM || host.Swtpm != ""
	return want, nil
}

// enlightenments are the interfaces of Hyper-V that KVM offers to Windows (QEMU,
// system/i386/hyperv): with them it spends no time on clocks, timers, interrupts and locks
// that a virtual machine emulates expensively. QEMU's own emulation has none of them.
const enlightenments = ",hv-relaxed=on,hv-vapic=on,hv-spinlocks=0x1fff,hv-vpindex=on,hv-runtime=on,hv-time=on,hv-synic=on,hv-stimer=on,hv-tlbflush=on,hv-ipi=on,hv-frequencies=on"

// enlighten adds them to a processor model, unless its user has chosen among them.
func enlighten(model, accelerator string) string {
	if accelerator != "kvm" || strings.Contains(model, ",hv-") {
		return model
	}
	return model + enlightenments
}
