package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares got with testdata/name.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("differs from %s:\n%s", path, got)
	}
}

func TestJoinDescriptor(t *testing.T) {
	j, err := Join([]Part{
		{Name: "config", Path: "/dev/fdset/2", Size: 700},
		{Name: "layer-1", Path: "/dev/fdset/3", Size: 4096},
		{Name: "layer-2", Path: "/dev/fdset/4", Size: 1 << 20},
	}, 64<<20, "/dev/fdset/0", "/dev/fdset/1")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "join.golden", j.Descriptor)
}

func TestJoinRefuses(t *testing.T) {
	for name, parts := range map[string][]Part{
		"no parts":  nil,
		"too many":  make([]Part, MaxParts+1),
		"empty":     {{Path: "/a"}},
		"quote":     {{Path: "/a\" 0\nRW 9 FLAT \"/etc/shadow", Size: 1}},
		"long name": {{Name: strings.Repeat("x", 37), Path: "/a", Size: 1}},
		"too large": {{Name: "x", Path: "/a", Size: 1 << 20}},
	} {
		if _, err := Join(parts, 1<<20, "/h", "/t"); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestJoinReads lets QEMU read the disk back through the descriptor and an
// independent reader check the partition table.
func TestJoinReads(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("needs qemu-img")
	}
	dir := t.TempDir()
	var parts []Part
	for i := range 62 {
		part := Part{Name: "layer", Path: filepath.Join(dir, "p"+string(rune('A'+i))), Size: int64(1000 + 513*i)}
		if err := os.WriteFile(part.Path, bytes.Repeat([]byte{byte(i + 1)}, int(part.Size)), 0o600); err != nil {
			t.Fatal(err)
		}
		parts = append(parts, part)
	}
	const size = 64 << 20
	head, tail := filepath.Join(dir, "head"), filepath.Join(dir, "tail")
	j, err := Join(parts, size, head, tail)
	if err != nil {
		t.Fatal(err)
	}
	desc := filepath.Join(dir, "disk.vmdk")
	for path, data := range map[string][]byte{head: j.Head, tail: append(make([]byte, j.Hole), j.Tail...), desc: []byte(j.Descriptor)} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	raw := filepath.Join(dir, "raw")
	if out, err := exec.Command("qemu-img", "convert", "-f", "vmdk", "-O", "raw", desc, raw).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	if len(data) != size {
		t.Fatalf("the disk has %d bytes, want %d", len(data), size)
	}
	for i, part := range parts {
		entry := data[2*Sector+i*gptEntry:]
		first := int64(binary.LittleEndian.Uint64(entry[32:])) * Sector
		end := int64(binary.LittleEndian.Uint64(entry[40:])+1) * Sector
		if first%4096 != 0 {
			t.Errorf("partition %d begins at %d, not on a 4 KiB boundary", i+1, first)
		}
		want := append(bytes.Repeat([]byte{byte(i + 1)}, int(part.Size)), make([]byte, end-first-part.Size)...)
		if !bytes.Equal(data[first:end], want) {
			t.Fatalf("partition %d does not hold its part", i+1)
		}
	}
	if sfdisk, err := exec.LookPath("sfdisk"); err == nil {
		out, err := exec.Command(sfdisk, "--verify", raw).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "No errors detected") {
			t.Errorf("sfdisk --verify: %v: %s", err, out)
		}
	}
}

func TestCreateExt4(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "root.raw")
	for _, journal := range []bool{true, false} {
		template := filepath.Join(dir, fmt.Sprint("template-", journal))
		if err := CreateExt4(t.Context(), template, 10<<30, journal); err != nil {
			t.Fatal(err)
		}
		identities := map[string]bool{}
		for _, durable := range []bool{true, false} {
			clone := filepath.Join(dir, fmt.Sprint("clone-", journal, durable))
			if err := CloneExt4(clone, template, durable); err != nil {
				t.Fatal(err)
			}
			identities[checkExt4(t, clone, journal)] = true
		}
		if identities[checkExt4(t, template, journal)] = true; len(identities) != 3 {
			t.Errorf("three disks have the identities %v", identities)
		}
	}
	if err := CreateExt4(t.Context(), filepath.Join(dir, "template-true"), 10<<30, true); err == nil {
		t.Error("an existing disk was overwritten")
	}
	if err := CreateExt4(t.Context(), path, 1000, true); err == nil {
		t.Error("a disk of 1000 bytes was accepted")
	}
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := CloneExt4(path+"2", path, false); err == nil {
		t.Error("a file of zeros was taken for a filesystem")
	}
	if _, err := os.Stat(path + "2"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a clone that failed is left: %v", err)
	}
}

// checkExt4 has the filesystem's own tools look at it, and returns its identity.
func checkExt4(t *testing.T, path string, journal bool) string {
	t.Helper()
	out, err := exec.Command("e2fsck", "-fn", path).CombinedOutput()
	if err != nil {
		t.Errorf("e2fsck: %v: %s", err, out)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if used := info.Sys().(*syscall.Stat_t).Blocks * 512; info.Size() != 10<<30 || used > 1<<20 {
		t.Errorf("%s has %d bytes and uses %d", path, info.Size(), used)
	}
	header, err := exec.Command("dumpe2fs", "-h", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Contains(string(header), "has_journal"); got != journal {
		t.Errorf("%s: journal %v, want %v", path, got, journal)
	}
	var identity string
	for line := range strings.Lines(string(header)) {
		if strings.HasPrefix(line, "Filesystem UUID:") || strings.HasPrefix(line, "Directory Hash Seed:") {
			identity += strings.Join(strings.Fields(line)[2:], " ")
		}
	}
	return identity
}

func TestCpio(t *testing.T) {
	var b bytes.Buffer
	c := NewCpio(&b)
	c.Dir("dev", 0o755)
	c.Char("dev/console", 0o600, 5, 1)
	c.File("init", 0o755, strings.NewReader("hello"), 5)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if b.Len()%4 != 0 {
		t.Errorf("%d bytes, not a multiple of four", b.Len())
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("needs busybox")
	}
	list := exec.Command(busybox, "cpio", "-tv")
	list.Stdin = &b
	out, err := list.CombinedOutput()
	for _, want := range []string{"drwxr-xr-x", "crw-------", "dev/console", "init"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("cpio -tv lacks %q: %v\n%s", want, err, out)
		}
	}
	short := NewCpio(&b)
	short.File("f", 0o644, strings.NewReader("abc"), 5)
	if short.Close() == nil {
		t.Error("a file shorter than said was accepted")
	}
}

// moduleELF is a minimal relocatable object with a .modinfo section.
func moduleELF(modinfo string) []byte {
	names := "\x00.modinfo\x00.shstrtab\x00"
	b := make([]byte, 64)
	copy(b, "\x7fELF\x02\x01\x01")
	binary.LittleEndian.PutUint16(b[16:], 1)
	binary.LittleEndian.PutUint16(b[18:], 62)
	binary.LittleEndian.PutUint32(b[20:], 1)
	infoAt := len(b)
	b = append(b, modinfo...)
	namesAt := len(b)
	b = append(b, names...)
	binary.LittleEndian.PutUint64(b[40:], uint64(len(b)))
	binary.LittleEndian.PutUint16(b[52:], 64)
	binary.LittleEndian.PutUint16(b[58:], 64)
	binary.LittleEndian.PutUint16(b[60:], 3)
	binary.LittleEndian.PutUint16(b[62:], 2)
	section := func(name, kind uint32, at, size int) {
		s := make([]byte, 64)
		binary.LittleEndian.PutUint32(s, name)
		binary.LittleEndian.PutUint32(s[4:], kind)
		binary.LittleEndian.PutUint64(s[24:], uint64(at))
		binary.LittleEndian.PutUint64(s[32:], uint64(size))
		b = append(b, s...)
	}
	section(0, 0, 0, 0)
	section(1, 1, infoAt, len(modinfo))
	section(10, 3, namesAt, len(names))
	return b
}

func TestModulesOrder(t *testing.T) {
	file := func(modinfo string) *fstest.MapFile { return &fstest.MapFile{Data: moduleELF(modinfo)} }
	m, err := OpenModules(fstest.MapFS{
		"modules.builtin":                    {Data: []byte("kernel/fs/ext4/ext4.ko\n")},
		"kernel/drivers/virtio/virtio.ko":    file("license=GPL\x00depends=\x00"),
		"kernel/drivers/virtio/ring.ko":      file("depends=virtio\x00"),
		"kernel/drivers/block/virtio-blk.ko": file("depends=ring,virtio,ext4\x00"),
		"kernel/a.ko":                        file("depends=b\x00"),
		"kernel/b.ko":                        file("depends=a\x00"),
		"kernel/zipped.ko.gz":                {Data: gzipped(moduleELF("depends=virtio\x00"))},
		"kernel/broken.ko":                   {Data: []byte("no ELF")},
	})
	if err != nil {
		t.Fatal(err)
	}
	order, err := m.Order("virtio_blk", "ext4", "zipped", "virtio")
	var names []string
	for _, module := range order {
		names = append(names, module.Name)
	}
	if got := strings.Join(names, " "); err != nil || got != "virtio ring virtio_blk zipped" {
		t.Errorf("order %q, %v", got, err)
	}
	for _, name := range []string{"a", "absent", "broken"} {
		if _, err := m.Order(name); err == nil {
			t.Errorf("module %s: no error", name)
		}
	}
}

func TestStripSignature(t *testing.T) {
	module := []byte("module")
	trailer := append(make([]byte, 8), 0, 0, 0, 9)
	signed := slices.Concat(module, []byte("signature"), trailer, []byte(signatureMark))
	if got := stripSignature(signed); string(got) != "module" {
		t.Errorf("got %q", got)
	}
	lying := slices.Concat(module, append(make([]byte, 8), 255, 0, 0, 0), []byte(signatureMark))
	for _, whole := range [][]byte{module, []byte(signatureMark), lying} {
		if got := stripSignature(whole); !bytes.Equal(got, whole) {
			t.Errorf("%q became %q", whole, got)
		}
	}
}

func FuzzModuleDepends(f *testing.F) {
	f.Add(moduleELF("depends=a,b\x00"))
	f.Fuzz(func(t *testing.T, data []byte) { _, _ = moduleDepends(data) })
}
