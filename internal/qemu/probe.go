package qemu

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// probeTimeout is how long the probe guest may take, QEMU's start included. On
// a processor with working virtualization it takes a tenth of a second, and a
// few seconds where the host is an emulated machine itself. Where a host's own
// hypervisor emulates instruction by instruction, the guest crawls.
const probeTimeout = 15 * time.Second

// Probe finds out whether KVM runs real code here, by running some: neither the
// device nor its version proves anything on a host that is itself a guest. The
// reason is one line for users, in both cases. It takes up to fifteen seconds,
// on working hosts a tenth of one; ask once per start of the host.
func Probe(ctx context.Context, qemu string) (works bool, reason string) {
	if qemu == "" {
		return false, "no QEMU on this host: install qemu-system-x86"
	}
	device, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return false, "the host has no /dev/kvm: its processor lacks VT-x or AMD-V, the firmware hides them, or the kvm module is not loaded"
	case err != nil:
		return false, "/dev/kvm cannot be opened: " + err.Error()
	}
	device.Close()
	if err := runProbe(ctx, qemu, "kvm", "host"); err != nil {
		return false, "/dev/kvm is there but does not run a guest: " + err.Error()
	}
	return true, "a probe guest ran in KVM"
}

// runProbe runs the probe guest with an accelerator.
func runProbe(ctx context.Context, qemu, accel, cpu string) error {
	dir, err := os.MkdirTemp("", "berth-probe-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	kernel := filepath.Join(dir, "probe")
	if err := os.WriteFile(kernel, probeKernel(), 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "microvm,pit=off,pic=off,rtc=off,isa-serial=off", "-accel", accel, "-cpu", cpu, "-m", "16", "-bios", "qboot.rom",
		"-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel", kernel)
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return fmt.Errorf("it did not finish within %v", probeTimeout)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	// isa-debug-exit makes the written value v the exit status 2v+1.
	want := int(probeSum()<<1|1) & 0xff
	if got := cmd.ProcessState.ExitCode(); got != want {
		said, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		if said == "" {
			said = fmt.Sprintf("it ended with status %d", got)
		}
		return errors.New(said)
	}
	return nil
}

// The probe guest's work: probeRounds rounds of 64-bit arithmetic.
const (
	probeRounds = 1 << 22
	probeStep   = 0x9e3779b97f4a7c15
)

// probeSum is what the guest must come to.
func probeSum() uint64 {
	var sum uint64
	for n := uint64(probeRounds); n > 0; n-- {
		sum += probeStep
		sum = sum<<13 | sum>>51
		sum ^= n
	}
	return sum
}

// probeBase is where the probe guest is loaded; its page tables lie above.
const probeBase = 0x100000

// probeKernel is an ELF file with a PVH note. Its code begins in 32-bit
// protected mode, as the PVH protocol starts a guest, and goes to long mode: a
// host whose emulator only knows the simple cases fails on the way.
func probeKernel() []byte {
	const (
		headers = 64 + 2*56
		note    = headers
		code    = 0x100
	)
	text := probeCode()
	elf := make([]byte, code, code+len(text))
	le := binary.LittleEndian
	copy(elf, "\x7fELF\x02\x01\x01")
	le.PutUint16(elf[16:], 2)  // ET_EXEC
	le.PutUint16(elf[18:], 62) // EM_X86_64
	le.PutUint32(elf[20:], 1)
	le.PutUint64(elf[24:], probeBase) // entry
	le.PutUint64(elf[32:], 64)        // program headers
	le.PutUint16(elf[52:], 64)
	le.PutUint16(elf[54:], 56)
	le.PutUint16(elf[56:], 2)
	segment := func(h []byte, kind uint32, offset, address, size uint64) {
		le.PutUint32(h, kind)
		le.PutUint32(h[4:], 7) // read, write, execute
		le.PutUint64(h[8:], offset)
		le.PutUint64(h[16:], address)
		le.PutUint64(h[24:], address)
		le.PutUint64(h[32:], size)
		le.PutUint64(h[40:], size)
		le.PutUint64(h[48:], 4)
	}
	segment(elf[64:], 1, code, probeBase, uint64(len(text))) // PT_LOAD
	segment(elf[64+56:], 4, note, 0, 20)                     // PT_NOTE
	le.PutUint32(elf[note:], 4)
	le.PutUint32(elf[note+4:], 4)
	le.PutUint32(elf[note+8:], 18) // XEN_ELFNOTE_PHYS32_ENTRY
	copy(elf[note+12:], "Xen\x00")
	le.PutUint32(elf[note+16:], probeBase)
	return append(elf, text...)
}

// probeCode is the machine code of
//
//	.code32
//	        movl $0x201003, 0x200000        # page tables: 4 MiB mapped one to one
//	        movl $0x202003, 0x201000
//	        movl $0x000083, 0x202000
//	        movl $0x200083, 0x202008
//	        mov  %cr4, %eax                 # physical address extension
//	        or   $0x20, %eax
//	        mov  %eax, %cr4
//	        mov  $0x200000, %eax
//	        mov  %eax, %cr3
//	        mov  $0xc0000080, %ecx          # EFER: long mode
//	        rdmsr
//	        or   $0x100, %eax
//	        wrmsr
//	        mov  %cr0, %eax                 # paging on
//	        or   $0x80000000, %eax
//	        mov  %eax, %cr0
//	        lgdt gdtr
//	        ljmp $8, $long
//	.code64
//	long:   mov  $probeRounds, %ecx
//	        xor  %eax, %eax
//	        movabs $probeStep, %rbx
//	1:      add  %rbx, %rax
//	        rol  $13, %rax
//	        xor  %rcx, %rax
//	        dec  %rcx
//	        jnz  1b
//	        out  %eax, $0xf4                # isa-debug-exit
//	        hlt
//	        jmp  .-1
//	        .balign 8
//	gdt:    .quad 0, 0x00209a0000000000     # 64-bit code
//	gdtr:   .word 15
//	        .long gdt
func probeCode() []byte {
	return []byte("" +
		"\xc7\x05\x00\x00\x20\x00\x03\x10\x20\x00\xc7\x05\x00\x10\x20\x00\x03\x20\x20\x00" +
		"\xc7\x05\x00\x20\x20\x00\x83\x00\x00\x00\xc7\x05\x08\x20\x20\x00\x83\x00\x20\x00" +
		"\x0f\x20\xe0\x83\xc8\x20\x0f\x22\xe0\xb8\x00\x00\x20\x00\x0f\x22\xd8" +
		"\xb9\x80\x00\x00\xc0\x0f\x32\x0d\x00\x01\x00\x00\x0f\x30" +
		"\x0f\x20\xc0\x0d\x00\x00\x00\x80\x0f\x22\xc0\x0f\x01\x15\x98\x00\x10\x00" +
		"\xea\x60\x00\x10\x00\x08\x00" +
		"\xb9\x00\x00\x40\x00\x31\xc0\x48\xbb\x15\x7c\x4a\x7f\xb9\x79\x37\x9e" +
		"\x48\x01\xd8\x48\xc1\xc0\x0d\x48\x31\xc8\x48\xff\xc9\x75\xf1\xe7\xf4\xf4\xeb\xfd" +
		"\x0f\x1f\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x9a\x20\x00" +
		"\x0f\x00\x88\x00\x10\x00")
}
