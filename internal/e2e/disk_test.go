package e2e

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/disk"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/testenv"
)

// diskScenarios are about machines that start what their disk holds.
var diskScenarios = []scenario{
	{"disk without an agent", localOnly, vms, diskWithoutAgent},
	{"disk guest", localOnly, vms, diskGuest},
	{"foreign disk", localOnly, vms, foreignDisk},
	{"cloud-init", localOnly, vms, cloudInit},
}

// bootSector is a whole system: it writes a line to its serial port and halts. It
// begins with a valid header of a qcow2 file that names a backing file, as a guest
// would write it: the instructions that this is to a processor do no harm.
func bootSector() []byte {
	b := make([]byte, 1<<20)
	copy(b, "QFI\xfb\x00\x00\x00\x03")
	b[14], b[15], b[19], b[23] = 0x01, 0xa0, 11, 16 // backing file at 416, 11 bytes; clusters of 64 KiB
	b[29], b[39], b[45], b[53], b[59] = 0x10, 1, 3, 1, 1
	b[99], b[103] = 4, 104
	copy(b[105:], []byte{
		0x31, 0xc0, // xor ax, ax
		0x8e, 0xd8, // mov ds, ax
		0xbe, 0x8c, 0x7c, // mov si, 0x7c00+140
		0xac,       // next: lodsb
		0x84, 0xc0, // test al, al
		0x74, 0x11, // jz end
		0x88, 0xc4, // mov ah, al
		0xba, 0xfd, 0x03, // mov dx, 0x3fd
		0xec,       // wait: in al, dx
		0xa8, 0x20, // test al, 0x20
		0x74, 0xfb, // jz wait
		0x88, 0xe0, // mov al, ah
		0xb2, 0xf8, // mov dl, 0xf8
		0xee,       // out dx, al
		0xeb, 0xea, // jmp next
		0xf4,       // end: hlt
		0xeb, 0xfd, // jmp end
	})
	copy(b[140:], "raw it is\r\n")
	copy(b[416:], "/etc/shadow")
	b[510], b[511] = 0x55, 0xaa
	return b
}

// diskWithoutAgent runs a guest that knows nothing of Berth. What its disk begins with
// is never taken for a format, however often it starts.
func diskWithoutAgent(t *testing.T, w *world, _ api.Kind) {
	file := filepath.Join(testenv.Dir(t), "sector.raw")
	if err := os.WriteFile(file, bootSector(), 0o600); err != nil {
		t.Fatal(err)
	}
	w.Berth(t, "image", "import", file, "disk/sector")
	w.later(t, "image", "rm", "disk/sector")
	w.start(t, api.VM, "bare", "--disk", "16m", "disk/sector")
	w.logged(t, "bare", "raw it is")
	refused(t, "exec", w.Try(t.Context(), "exec", "bare", "true"), 125, "bare", "no agent", "docs/disk-images.md")
	if got := w.Berth(t, "stats", "--no-stream", "--format", "{{.MemUsage}}", "bare"); !strings.HasSuffix(got, "512MiB") {
		t.Errorf("its memory is %s", got)
	}
	refused(t, "a signal", w.Try(t.Context(), "kill", "-s", "HUP", "bare"), 1, "bare", "SIGKILL")
	refused(t, "a clone", w.Try(t.Context(), "clone", "bare"), 1, "bare", "no agent", "stop it first")
	w.Stop(t)
	w.Start(t)
	w.Berth(t, "stop", "-t", "1", "bare") // it does not mind its power button
	w.Berth(t, "clone", "--name", "twin", "bare")
	t.Cleanup(func() { w.remove(t, "twin") })
	w.Berth(t, "start", "twin")
	w.logged(t, "twin", "raw it is")
	if code := w.field(t, "bare", ".Status.ExitCode"); code != "137" {
		t.Errorf("ended by force with exit code %s", code)
	}
	w.Berth(t, "update", "--disk", "24m", "bare")
	w.Berth(t, "start", "bare")
	w.Berth(t, "update", "--disk", "32m", "bare")
	testenv.Eventually(t, time.Minute, func() error {
		if out := w.Berth(t, "logs", "bare"); strings.Count(out, "raw it is") < 2 {
			return fmt.Errorf("the log has: %q", out)
		}
		return nil
	})
	refused(t, "commit with a message", w.Try(t.Context(), "commit", "-q", "-m", "what", "bare", "disk/made"), 1, "bare", "no history", "leave them out")
	w.Berth(t, "commit", "bare", "disk/made")
	w.later(t, "image", "rm", "disk/made")
	w.start(t, api.VM, "copy", "--disk", "32m", "disk/made")
	w.logged(t, "copy", "raw it is")
	w.start(t, api.VM, "other", "--guest-os", "windows", "--disk", "32m", "disk/made") // QEMU takes what is planned for it
	w.logged(t, "other", "raw it is")
	refused(t, "diff", w.Try(t.Context(), "diff", "bare"), 1, "bare", "no layer")
	w.Berth(t, "create", "--vm", "--name", "idle", "disk/sector")
	t.Cleanup(func() { w.remove(t, "idle") })
	refused(t, "commit of one that never ran", w.Try(t.Context(), "commit", "-q", "idle", "disk/none"), 1, "idle", "never started", "berth image tag")
	for args, words := range map[string][]string{
		"disk/sector true":                               {"disk/sector", "the command"},
		"-e A=b disk/sector":                             {"disk/sector", "-e"},
		"-v /tmp:/x disk/sector":                         {"disk/sector", "no agent"},
		"--vm --machine microvm disk/sector":             {"microvm", "--machine q35"},
		"--vm --firmware none disk/sector":               {"--firmware bios or uefi"},
		"--vm --kernel debian-cloud disk/sector":         {"--kernel"},
		"--vm --guest-os windows base":                   {"layers", "--guest-os"},
		"--user-data /dev/null --ssh-key /dev/null base": {"base", "disk images"},
	} {
		refused(t, args, w.Try(t.Context(), append([]string{"run", "--rm"}, strings.Fields(args)...)...), 125, words...)
	}
}

// debianDisk returns a raw disk that the code under test makes of Debian's packages,
// which takes a minute: it is kept while what goes into it is the same.
func debianDisk(t *testing.T, include ...string) string {
	t.Helper()
	agent := filepath.Join(testenv.Programs(t), "berth-agent")
	h := sha256.New()
	fmt.Fprintln(h, include)
	for _, file := range []string{agent, filepath.Join(testenv.Repository(t), "internal/image/bootdisk.go"), filepath.Join(testenv.Repository(t), "internal/image/bootfiles.go")} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		h.Write(content)
	}
	return filepath.Join(testenv.Cached(t, "disk", fmt.Sprintf("%x", h.Sum(nil)), func(ctx context.Context, dir string) error {
		images, err := image.Open(filepath.Join(dir, "store"), image.Options{Agents: map[string]string{"amd64": agent}})
		if err != nil {
			return err
		}
		defer os.RemoveAll(filepath.Join(dir, "store"))
		defer images.Close()
		name, err := images.BootstrapDisk(ctx, image.BootstrapOptions{Name: "debian:12", Include: include})
		if err != nil {
			return err
		}
		raw, err := os.Create(filepath.Join(dir, "debian.raw"))
		if err != nil {
			return err
		}
		r, w := io.Pipe()
		go func() { w.CloseWithError(images.ExportDisk(ctx, name, disk.Raw, w)) }()
		_, err = disk.CopySparse(raw, r)
		return errors.Join(err, raw.Close())
	}), "debian.raw")
}

// diskGuest boots Debian from its disk by both firmwares, and lives with its agent:
// commands, files, a restart of berthd, a reboot of its own, a clean end.
func diskGuest(t *testing.T, w *world, _ api.Kind) {
	w.Berth(t, "image", "import", "--agent", debianDisk(t, "openssh-server"), "disk/debian:12")
	w.later(t, "image", "rm", "disk/debian:12")
	w.later(t, "volume", "rm", "extra")
	w.start(t, api.VM, "uefi", "--firmware", "uefi", "--hostname", "ship", "--memory", "384m", "--mount", "type=disk,source=extra,size=64m,target=/srv/extra", "disk/debian:12")
	w.Berth(t, "run", "-d", "--name", "bios", "--memory", "384m", "disk/debian:12")
	t.Cleanup(func() { w.remove(t, "bios") })
	for name, firmware := range map[string]string{"bios": "BIOS", "uefi": "UEFI"} {
		// Emulated on a busy machine, firmware, bootloader, kernel and services take
		// longer than one command may.
		testenv.Eventually(t, 8*time.Minute, func() error {
			if r := w.Try(t.Context(), "exec", name, "true"); r.Exit != 0 {
				return fmt.Errorf("%s has not booted: %s\n%s", name, r, w.Try(t.Context(), "logs", "--tail", "20", name))
			}
			return nil
		})
		said := w.Berth(t, "exec", name, "sh", "-c", "if [ -d /sys/firmware/efi ]; then echo UEFI; else echo BIOS; fi; hostname; hostname -I; df --output=size -BG / | tail -1")
		lines := strings.Split(said, "\n")
		if len(lines) != 4 || lines[0] != firmware {
			t.Fatalf("%s says: %q", name, said)
		}
		if name == "uefi" && lines[1] != "ship" {
			t.Errorf("its host name is %s", lines[1])
		}
		address, _, _ := strings.Cut(w.field(t, name, "(index .Status.Interfaces 0).Address"), "/")
		if strings.TrimSpace(lines[2]) != address {
			t.Errorf("%s has the address %s and not %s", name, lines[2], address)
		}
		if strings.TrimSpace(lines[3]) != "10G" {
			t.Errorf("the root filesystem of %s has grown to %s of 10 GiB", name, lines[3])
		}
	}
	if got := w.Berth(t, "exec", "uefi", "sh", "-c", "findmnt -no FSTYPE /srv/extra; readlink /dev/disk/by-id/virtio-extra"); !strings.HasPrefix(got, "ext4\n../../vd") {
		t.Errorf("of its further disk it says %q", got)
	}
	savesDisk(t, w)
	clonesDisk(t, w)
	w.Berth(t, "update", "--disk", "12g", "uefi")
	if got := w.Berth(t, "exec", "uefi", "sh", "-c", "df --output=size -BG / | tail -1"); strings.TrimSpace(got) != "12G" {
		t.Errorf("of 12 GiB its root filesystem has %q", got)
	}
	refused(t, "more memory", w.Try(t.Context(), "update", "--memory", "1g", "uefi"), 1, "uefi", "384 MiB", "stop it first")
	w.Stop(t)
	w.Start(t)
	w.Berth(t, "cp", "uefi:/etc/fstab", filepath.Join(testenv.Dir(t), "fstab"))
	expect(t, "exec", w.TryInput(t.Context(), strings.NewReader("in\n"), "exec", "-i", "uefi", "sh", "-c", "cat; exit 3"), 3, "in\n")
	commitsDisk(t, w, "uefi")
	w.Berth(t, "stop", "uefi", "bios")
	for _, name := range []string{"uefi", "bios"} {
		if got := w.field(t, name, ".Status.ExitCode") + " " + w.field(t, name, ".Status.State"); got != "0 exited" {
			t.Errorf("%s has ended with %s", name, got)
		}
	}
}

// savesDisk saves machines that started from disks, and has them go on.
func savesDisk(t *testing.T, w *world) {
	const bootID = "/proc/sys/kernel/random/boot_id"
	boot := w.Berth(t, "exec", "uefi", "cat", bootID)
	w.Berth(t, "suspend", "uefi")
	w.Berth(t, "resume", "uefi")
	if again := w.Berth(t, "exec", "uefi", "cat", bootID); again != boot {
		t.Errorf("boot %s goes on as %s", boot, again)
	}
	refused(t, "a snapshot with a further disk", w.Try(t.Context(), "snapshot", "create", "uefi"), 1, "uefi", "volumes")
	boot = w.Berth(t, "exec", "bios", "sh", "-c", "echo one >/root/note; cat "+bootID)
	w.Berth(t, "snapshot", "create", "bios")
	w.Berth(t, "exec", "bios", "sh", "-c", "echo two >/root/note; sync")
	w.Berth(t, "snapshot", "restore", "bios", "snap0")
	if said := w.Berth(t, "exec", "bios", "cat", "/root/note", bootID); said != "one\n"+boot {
		t.Errorf("the restored machine says %q of boot %s", said, boot)
	}
}

// clonesDisk makes a machine of one that started from a disk. Its ssh server proves itself by
// keys of its own.
func clonesDisk(t *testing.T, w *world) {
	const keys = "for kind in rsa ecdsa ed25519; do ssh-keyscan -t $kind localhost 2>/dev/null | cut -d ' ' -f 3; done"
	testenv.Eventually(t, 5*time.Minute, func() error { // where the bootloader has not long been left
		if said := w.Berth(t, "exec", "bios", "sh", "-c", keys); len(strings.Fields(said)) != 3 {
			return fmt.Errorf("its keys are %q", said)
		}
		return nil
	})
	seen := map[string]string{}
	w.Berth(t, "clone", "--name", "copy", "bios")
	t.Cleanup(func() { w.remove(t, "copy") })
	for _, name := range []string{"bios", "copy"} {
		said := w.Berth(t, "exec", name, "sh", "-c", "hostname; cat /etc/machine-id; cat /sys/class/net/e*/address; hostname -I;"+keys)
		lines := strings.Split(said, "\n")
		if len(lines) != 7 || lines[0] != w.field(t, name, ".ID")[:12] {
			t.Errorf("%s says %q", name, said)
		}
		for _, line := range lines {
			if other := seen[line]; other != "" {
				t.Errorf("%s and %s both have %s", name, other, line)
			}
			seen[line] = name
		}
	}
	w.Berth(t, "exec", "copy", "sh", "-c", "ping -c 1 -W 5 bios >/dev/null || ssh-keyscan -T 20 bios >/dev/null")
	w.Berth(t, "rm", "-f", "copy")
}

// commitsDisk makes a disk image of a machine that runs and writes. Its filesystem is at
// rest in the image, which ext4 says: there is nothing in its journal.
func commitsDisk(t *testing.T, w *world, name string) {
	w.Berth(t, "exec", name, "sh", "-c", "echo kept >/root/kept; (while :; do date >/root/date; done) >/dev/null 2>&1 </dev/null & sync")
	w.Berth(t, "commit", name, "disk/made")
	w.later(t, "image", "rm", "disk/made")
	expect(t, "it goes on", w.Try(t.Context(), "exec", name, "sh", "-c", "echo more >/root/more; cat /root/more"), 0, "more\n")
	raw := filepath.Join(testenv.Dir(t), "made.raw")
	w.Berth(t, "image", "export", "--format", "raw", "-o", raw, "disk/made")
	start := testenv.Shell(t, w.Machine, "set -- $(partx -g -b -o START,SECTORS "+raw+" | sort -nk2 | tail -1); echo $(($1 * 512))")
	root := raw + "'?offset=" + start + "'" // as libext2fs takes it
	if got := testenv.Shell(t, w.Machine, "debugfs -R 'cat /root/kept' "+root+" 2>/dev/null"); got != "kept" {
		t.Errorf("the image has %q", got)
	}
	if got := testenv.Shell(t, w.Machine, "dumpe2fs -h "+root+" 2>/dev/null"); strings.Contains(got, "needs_recovery") {
		t.Errorf("the filesystem was not at rest:\n%s", got)
	}
}
