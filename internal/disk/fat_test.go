package disk

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestCreateFAT(t *testing.T) {
	dir := t.TempDir()
	fat := FAT{Label: "CIDATA", ID: 0x1234abcd, Size: 2 << 20, Time: time.Unix(1700000000, 0), Files: map[string][]byte{
		"meta-data": []byte("instance-id: i\n"), "EFI/BOOT/BOOTX64.EFI": bytes.Repeat([]byte("efi"), 100_000),
	}}
	for _, name := range []string{"a", "b"} {
		if err := CreateFAT(t.Context(), filepath.Join(dir, name), fat); err != nil {
			t.Fatal(err)
		}
	}
	a, b := readFile(t, filepath.Join(dir, "a")), readFile(t, filepath.Join(dir, "b"))
	if !bytes.Equal(a, b) {
		t.Error("the same files make different filesystems")
	}
	if out, err := exec.CommandContext(t.Context(), "fsck.vfat", "-n", filepath.Join(dir, "a")).CombinedOutput(); err != nil {
		t.Errorf("fsck.vfat: %v: %s", err, out)
	}
	for name, want := range fat.Files {
		got, err := exec.CommandContext(t.Context(), "mcopy", "-i", filepath.Join(dir, "a"), "::"+name, "-").Output()
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	fat.Size = 64 << 10 // too small for what it shall hold
	if err := CreateFAT(t.Context(), filepath.Join(dir, "full"), fat); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("a filesystem that is too small: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The disk's tables are judged by util-linux; that it boots shows the end-to-end test.
func TestBootDisk(t *testing.T) {
	dir := t.TempDir()
	esp, path := filepath.Join(dir, "esp"), filepath.Join(dir, "disk")
	if err := os.WriteFile(esp, bytes.Repeat([]byte{0xe5}, ESPSize), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	const size = 100 << 20
	if err := file.Truncate(size); err != nil {
		t.Fatal(err)
	}
	disk := BootDisk{Size: size, Boot: bytes.Repeat([]byte{0xb0}, Sector), Core: bytes.Repeat([]byte{0xc0}, 3*Sector), ESP: esp}
	if err := disk.Write(file); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "partx", "-o", "NR,START,SECTORS,NAME,TYPE", "-g", path).CombinedOutput()
	if err != nil {
		t.Fatalf("partx: %v: %s", err, out)
	}
	golden(t, "bootdisk.golden", string(out))
	content := readFile(t, path)
	if content[0] != 0xb0 || content[bootKernel+1] != 8 || content[coreFirst*Sector+coreBlockStart] != 1 || content[espFirst*Sector] != 0xe5 {
		t.Error("GRUB's stages do not find each other")
	}
	disk.Core = make([]byte, 2<<20)
	if err := disk.Write(file); err == nil {
		t.Error("a core.img beyond its partition passes")
	}
}
