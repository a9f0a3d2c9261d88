package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/disk"
	"github.com/berthcloud/berth/internal/testenv"
)

// foreignInit is all that the disk's system does.
const foreignInit = `package main

import (
	"os"
	"runtime"
	"syscall"
)

func main() {
	os.Stdout.WriteString("a disk of " + runtime.GOARCH + "\n")
	syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
}
`

// foreignDisk starts a disk of arm64: its firmware reads a script, as there is no
// bootloader, which starts the kernel, which is a program of UEFI's (EFI stub).
func foreignDisk(t *testing.T, w *world, kind api.Kind) {
	w.Berth(t, run(kind, "--rm", "base:arm64", "true")...) // which takes the kernel out of its image
	dir := testenv.Dir(t)
	file := filepath.Join(dir, "arm64.raw")
	err := disk.CreateFAT(t.Context(), file, disk.FAT{Label: "ESP", ID: 1, Size: 64 << 20, Time: time.Unix(1e9, 0), Files: map[string][]byte{
		"startup.nsh": []byte("fs0:\\kernel.efi initrd=initrd.img\r\n"),
		"kernel.efi":  foreignKernel(t, w),
		"initrd.img":  foreignInitramfs(t, dir),
	}})
	if err != nil {
		t.Fatal(err)
	}
	w.Berth(t, "image", "import", "--platform", "linux/arm64", file, "disk/arm64")
	w.later(t, "image", "rm", "disk/arm64")
	w.start(t, kind, "foreign", "--memory", "512m", "disk/arm64")
	testenv.Eventually(t, 3*time.Minute, func() error { // as long as firmware may take on a busy machine
		if state := w.field(t, "foreign", ".Status.State"); state != "exited" {
			return fmt.Errorf("it is %s: %s", state, w.Berth(t, "logs", "foreign"))
		}
		return nil
	})
	w.logged(t, "foreign", "a disk of arm64")
	refused(t, "by BIOS", w.Try(t.Context(), run(kind, "--rm", "--firmware", "bios", "disk/arm64")...), 125, "arm64", "BIOS", "--firmware uefi")
}

// foreignKernel returns arm64's kernel, which says so itself (Documentation/arch/arm64/booting.rst).
func foreignKernel(t *testing.T, w *world) []byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(w.Dir, "root", "kernels", "*", "vmlinux"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		kernel, err := os.ReadFile(file)
		if err == nil && len(kernel) > 60 && bytes.Equal(kernel[56:60], []byte("ARM\x64")) {
			return kernel
		}
	}
	t.Fatalf("no kernel of arm64 among %v", files)
	return nil
}

// foreignInitramfs is an initramfs with foreignInit.
func foreignInitramfs(t *testing.T, dir string) []byte {
	t.Helper()
	source := filepath.Join(dir, "init.go")
	if err := os.WriteFile(source, []byte(foreignInit), 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "init"), source)
	build.Env = append(os.Environ(), "GOARCH=arm64", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cpio := exec.CommandContext(t.Context(), "busybox", "cpio", "-o", "-H", "newc")
	cpio.Dir, cpio.Stdin = dir, bytes.NewReader([]byte("init\n"))
	archive, err := cpio.Output()
	if err != nil {
		t.Fatal(err)
	}
	return archive
}
