package disk

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// made returns a disk file of 8 MiB that qemu-img made in the format.
func made(t testing.TB, format Format, options ...string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk."+string(format))
	argv := append(append([]string{"create", "-q", "-f", string(format)}, options...), path, "8M")
	if out, err := exec.CommandContext(t.Context(), "qemu-img", argv...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v: %s", err, out)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestCheckHeader(t *testing.T) {
	for _, format := range Formats() {
		b := made(t, format)
		size, err := CheckHeader(bytes.NewReader(b), int64(len(b)), format)
		if err != nil || size != 8<<20 {
			t.Errorf("%s: %d bytes, %v", format, size, err)
		}
	}
	if _, err := CheckHeader(bytes.NewReader(nil), 0, "luks"); err == nil {
		t.Error("a format that nobody knows passes")
	}
	if _, err := CheckHeader(bytes.NewReader(nil), 0, Raw); err == nil {
		t.Error("an empty file passes as a disk")
	}
}

// A disk that leads to another file would read the host's for whoever imports it.
func TestCheckHeaderHostile(t *testing.T) {
	dir := t.TempDir()
	base := filepath.Join(dir, "base.raw")
	if err := os.WriteFile(base, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	edit := func(format Format, change func([]byte)) []byte {
		b := bytes.Clone(made(t, format))
		change(b)
		return b
	}
	vhdxParent := func(b []byte) {
		at := bytes.Index(b[vhdxRegions:], []byte(vhdxMetadata)) + vhdxRegions
		metadata := int(binary.LittleEndian.Uint64(b[at+16:]))
		item := bytes.Index(b[metadata:], []byte(vhdxParameters)) + metadata
		b[metadata+int(binary.LittleEndian.Uint32(b[item+16:]))+4] |= 2
	}
	for name, c := range map[string]struct {
		format Format
		file   []byte
		says   string
	}{
		"backing file":        {Qcow2, made(t, Qcow2, "-b", base, "-F", "raw"), "another file"},
		"data file":           {Qcow2, made(t, Qcow2, "-o", "data_file="+filepath.Join(dir, "data.raw")), "another file"},
		"encrypted":           {Qcow2, edit(Qcow2, func(b []byte) { b[35] = 2 }), "encrypted"},
		"unknown feature":     {Qcow2, edit(Qcow2, func(b []byte) { b[72] = 1 }), "features"},
		"corrupt":             {Qcow2, edit(Qcow2, func(b []byte) { b[79] |= 2 }), "corrupt"},
		"huge":                {Qcow2, edit(Qcow2, func(b []byte) { b[24] = 0xff }), "none"},
		"no qcow2":            {Qcow2, made(t, Raw), "real format"},
		"vmdk extents":        {VMDK, []byte("# Disk DescriptorFile\nversion=1\nRW 1 FLAT \"/etc/shadow\" 0\n"), "another file"},
		"vmdk hidden extents": {VMDK, edit(VMDK, func(b []byte) { clear(b[12:20]) }), "another file"},
		"vmdk parent":         {VMDK, edit(VMDK, func(b []byte) { copy(b[Sector:], "parentFileNameHint=\"/etc/shadow\"") }), "another file"},
		"vdi parent":          {VDI, edit(VDI, func(b []byte) { b[0x1a8] = 1 }), "another file"},
		"vdi truncated":       {VDI, edit(VDI, func(b []byte) { b[0x184] = 7 }), "truncated"},
		"vhdx parent":         {VHDX, edit(VHDX, vhdxParent), "another file"},
		"vhdx truncated":      {VHDX, made(t, VHDX)[:200<<10], "truncated"},
	} {
		_, err := CheckHeader(bytes.NewReader(c.file), int64(len(c.file)), c.format)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, which does not say %q", name, err, c.says)
		}
	}
}

// FuzzCheckHeader: no header makes the reader panic or read far.
func FuzzCheckHeader(f *testing.F) {
	for _, format := range Formats()[1:] {
		b := made(f, format)
		f.Add(string(format), b[:min(len(b), 260<<10)]) // VHDX's second table is at 192 KiB
	}
	f.Fuzz(func(t *testing.T, format string, file []byte) {
		size, err := CheckHeader(bytes.NewReader(file), int64(len(file)), Format(format))
		if err == nil && size <= 0 {
			t.Errorf("a disk of %d bytes passes", size)
		}
	})
}

func TestSparse(t *testing.T) {
	content := make([]byte, 5<<20+100)
	copy(content[1<<20:], "one")
	copy(content[len(content)-3:], "end")
	dir := t.TempDir()
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	file, err := os.Create(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if n, err := CopySparse(file, bytes.NewReader(content)); err != nil || n != int64(len(content)) {
		t.Fatal(n, err)
	}
	if err := Clone(filepath.Join(dir, "b"), file.Name()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "c"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Dig(filepath.Join(dir, "c")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b", "c"} {
		if !bytes.Equal(read(name), content) {
			t.Errorf("%s differs", name)
		}
		if used := blocks(t, filepath.Join(dir, name)); used > 1<<20 {
			t.Errorf("%s takes %d bytes of the disk", name, used)
		}
	}
}

// blocks returns how many bytes of the host's disk a file takes.
func blocks(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}
