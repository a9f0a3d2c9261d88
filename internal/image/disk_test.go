package image_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/disk"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/testenv"
)

// converting opens a store that converts disks.
func converting(t *testing.T) *image.Store {
	t.Helper()
	return openAt(t, t.TempDir(), image.Options{Converter: image.Converter{
		Launcher: filepath.Join(testenv.Programs(t), "berth-qemu"), User: 0x6fff_fffe,
	}})
}

// rawDisk is a disk of 4 MiB that is mostly empty.
func rawDisk() []byte {
	b := make([]byte, 4<<20)
	copy(b, "the boot sector")
	copy(b[3<<20:], bytes.Repeat([]byte("data"), 9000))
	return b
}

// inFormat writes a raw disk in a format, as qemu-img does for everybody else.
func inFormat(t *testing.T, format disk.Format, raw []byte, options ...string) string {
	t.Helper()
	dir := t.TempDir()
	from, to := filepath.Join(dir, "raw"), filepath.Join(dir, "disk")
	if err := os.WriteFile(from, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	argv := append(append([]string{"convert", "-f", "raw", "-O", string(format)}, options...), from, to)
	if out, err := exec.CommandContext(t.Context(), "qemu-img", argv...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v: %s", err, out)
	}
	return to
}

func importFile(t *testing.T, s *image.Store, path string, opt image.DiskOptions) error {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	name, err := s.ImportDisk(t.Context(), f, opt)
	if err == nil && name != opt.Name+":latest" {
		t.Errorf("imported as %s", name)
	}
	return err
}

// Each format that is imported gives the same raw disk, and so one blob in the store;
// what is exported holds the same again.
func TestDiskFormats(t *testing.T) {
	if testing.Short() {
		t.Skip("runs qemu-img twenty times")
	}
	testenv.Check(t)
	s, raw := converting(t), rawDisk()
	var digest string
	for _, format := range disk.Formats() {
		name := "disk/" + string(format)
		if err := importFile(t, s, inFormat(t, format, raw), image.DiskOptions{Name: name, Format: format, Firmware: api.FirmwareUEFI}); err != nil {
			t.Fatal(err)
		}
		img, err := s.Resolve(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(img.Disk.Path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, raw) || img.Disk.Size != int64(len(raw)) || img.Disk.Firmware != api.FirmwareUEFI {
			t.Errorf("%s: the disk in the store differs: %+v", format, img.Disk)
		}
		if digest != "" && img.Disk.Path != digest {
			t.Errorf("%s is kept twice", format)
		}
		digest = img.Disk.Path

		exported := filepath.Join(t.TempDir(), "exported")
		out, err := os.Create(exported)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.ExportDisk(t.Context(), name, format, out); err != nil {
			t.Fatal(err)
		}
		out.Close()
		back := filepath.Join(t.TempDir(), "back")
		if said, err := exec.CommandContext(t.Context(), "qemu-img", "convert", "-f", string(format), "-O", "raw", exported, back).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", format, err, said)
		}
		if got, _ := os.ReadFile(back); !bytes.Equal(got, raw) {
			t.Errorf("%s: what was exported differs", format)
		}
	}
	img, err := s.Inspect(t.Context(), "disk/vhdx")
	if err != nil || img.Type != image.TypeDisk || img.Disk.Size != 4<<20 || img.Size >= 4<<20 || img.Platform == "" {
		t.Errorf("inspect says %+v, %v", img, err)
	}
}

// A disk image is an image: it travels as an archive, has names, and goes as garbage.
func TestDiskIsAnImage(t *testing.T) {
	testenv.Check(t)
	s := open(t)
	raw := rawDisk()
	if _, err := s.ImportDisk(t.Context(), bytes.NewReader(raw), image.DiskOptions{Name: "disk/a", Format: disk.Raw, Agent: true}); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := s.Export(t.Context(), &archive, "disk/a"); err != nil {
		t.Fatal(err)
	}
	other := open(t)
	if _, err := other.Import(t.Context(), &archive, image.ImportOptions{Name: "disk/b"}); err != nil {
		t.Fatal(err)
	}
	b, err := other.Resolve(t.Context(), "disk/b")
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(b.Disk.Path); !bytes.Equal(got, raw) || !b.Disk.Agent {
		t.Error("the disk differs on the other side")
	}
	if list, err := other.List(t.Context()); err != nil || len(list) != 1 || list[0].Size >= 4<<20 {
		t.Errorf("the holes of the disk are gone: %+v, %v", list, err)
	}
	if err := other.Tag(t.Context(), "disk/b", "disk/c"); err != nil {
		t.Fatal(err)
	}
	other.Hold("instance", b.Digest)
	if removed, _, err := other.Prune(t.Context(), image.PruneOptions{All: true}); err != nil || len(removed) != 0 {
		t.Errorf("pruned %v, %v", removed, err)
	}
	other.Release("instance")
	if removed, freed, err := other.Prune(t.Context(), image.PruneOptions{All: true}); err != nil || len(removed) != 2 || freed == 0 {
		t.Errorf("pruned %v, %d bytes, %v", removed, freed, err)
	}
	if _, err := os.Stat(b.Disk.Path); err == nil {
		t.Error("the disk's content is left")
	}
}

// A disk comes from strangers: whatever it claims, nothing of the host is in the
// image, nothing is left after a refusal, and the refusal is one line with a reason.
func TestHostileDisks(t *testing.T) {
	testenv.Check(t)
	s, raw := converting(t), rawDisk()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, bytes.Repeat([]byte("SECRET!!"), 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	whole := inFormat(t, disk.Qcow2, raw)
	cut := func(path string, size int64) string {
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		return path
	}
	create := func(args ...string) string {
		path := filepath.Join(t.TempDir(), "disk")
		argv := append(append([]string{"create", "-q", "-f", "qcow2"}, args...), path, "64T")
		if out, err := exec.CommandContext(t.Context(), "qemu-img", argv...).CombinedOutput(); err != nil {
			t.Fatalf("qemu-img: %v: %s", err, out)
		}
		return path
	}
	for name, c := range map[string]struct {
		format disk.Format
		path   string
		says   string
	}{
		"backing file":   {disk.Qcow2, create("-b", secret, "-F", "raw"), "another file"},
		"huge":           {disk.Qcow2, create(), "more than 512GiB"},
		"truncated":      {disk.Qcow2, cut(inFormat(t, disk.Qcow2, raw), 300<<10), "qemu-img"},
		"truncated vmdk": {disk.VMDK, cut(inFormat(t, disk.VMDK, raw), 100<<10), "qemu-img"},
		"wrong format":   {disk.VDI, whole, "real format"},
	} {
		err := importFile(t, s, c.path, image.DiskOptions{Name: "disk/hostile", Format: c.format})
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, which does not say %q", name, err, c.says)
		}
	}
	if list, err := s.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("left: %+v, %v", list, err)
	}

	// What is called raw is raw, whatever it begins with.
	if err := importFile(t, s, whole, image.DiskOptions{Name: "disk/raw", Format: disk.Raw}); err != nil {
		t.Fatal(err)
	}
	img, err := s.Resolve(t.Context(), "disk/raw")
	if err != nil {
		t.Fatal(err)
	}
	want, _ := os.ReadFile(whole)
	if got, _ := os.ReadFile(img.Disk.Path); !bytes.HasPrefix(got, want) {
		t.Error("a raw disk that begins as qcow2 was read as one")
	}
}

// appliance makes an OVA of files by name.
func appliance(t testing.TB, files ...string) []byte {
	t.Helper()
	return rootfs(t, files...)
}

const efiDescriptor = `<Envelope xmlns:vmw="http://www.vmware.com/schema/ovf"><VirtualSystem><VirtualHardwareSection>
<vmw:Config vmw:required="false" vmw:key="firmware" vmw:value="efi"/></VirtualHardwareSection></VirtualSystem></Envelope>`

func TestOVA(t *testing.T) {
	if testing.Short() {
		t.Skip("runs qemu-img")
	}
	testenv.Check(t)
	s, raw := converting(t), rawDisk()
	vmdk, err := os.ReadFile(inFormat(t, disk.VMDK, raw, "-o", "subformat=streamOptimized"))
	if err != nil {
		t.Fatal(err)
	}
	take := func(ova []byte) error {
		_, err := s.ImportDisk(t.Context(), bytes.NewReader(ova), image.DiskOptions{Name: "disk/a", Format: image.OVA})
		return err
	}
	if err := take(appliance(t, "a.ovf", efiDescriptor, "a.mf", "SHA256(a)= 0", "a-disk1.vmdk", string(vmdk))); err != nil {
		t.Fatal(err)
	}
	img, err := s.Resolve(t.Context(), "disk/a")
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(img.Disk.Path); !bytes.Equal(got, raw) || img.Disk.Firmware != api.FirmwareUEFI {
		t.Errorf("the appliance has become another disk, started by %s", img.Disk.Firmware)
	}
	for says, ova := range map[string][]byte{
		"no disk":            appliance(t, "a.ovf", efiDescriptor),
		"more than one disk": appliance(t, "a.vmdk", string(vmdk), "b.vmdk", string(vmdk)),
		"descriptor":         appliance(t, "a.ovf", "<Envelope", "a.vmdk", string(vmdk)),
		"another file":       appliance(t, "a.vmdk", "# Disk DescriptorFile\nRW 1 FLAT \"/etc/shadow\" 0\n"),
		"truncated":          []byte("no archive at all"),
	} {
		if err := take(ova); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v does not say %q", err, says)
		}
	}
}

// TestExportOVA writes an appliance, reads it as strictly as the specification is
// written, and imports it again.
func TestExportOVA(t *testing.T) {
	if testing.Short() {
		t.Skip("runs qemu-img")
	}
	testenv.Check(t)
	s, raw := converting(t), rawDisk()
	for _, firmware := range []api.Firmware{api.FirmwareBIOS, api.FirmwareUEFI} {
		opt := image.DiskOptions{Name: "disk/app:1.0", Format: disk.Raw, Firmware: firmware}
		if _, err := s.ImportDisk(t.Context(), bytes.NewReader(raw), opt); err != nil {
			t.Fatal(err)
		}
		var ova bytes.Buffer
		if err := s.ExportDisk(t.Context(), "disk/app:1.0", image.OVA, &ova); err != nil {
			t.Fatal(err)
		}
		files := unpackOVA(t, ova.Bytes())
		checkOVF(t, files[0], files[2], int64(len(raw)))
		if got := bytes.Contains(files[0].data, []byte(`vmw:value="efi"`)); got != (firmware == api.FirmwareUEFI) {
			t.Errorf("%s: the descriptor speaks of EFI: %v", firmware, got)
		}
		want := fmt.Sprintf("SHA256(app-1.0.ovf)= %x\nSHA256(app-1.0-disk1.vmdk)= %x\n", sha256.Sum256(files[0].data), sha256.Sum256(files[2].data))
		if string(files[1].data) != want {
			t.Errorf("the manifest says %s\nwant %s", files[1].data, want)
		}
		if _, err := s.ImportDisk(t.Context(), &ova, image.DiskOptions{Name: "disk/again", Format: image.OVA}); err != nil {
			t.Fatal(err)
		}
		img, err := s.Resolve(t.Context(), "disk/again")
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(img.Disk.Path); !bytes.Equal(got, raw) || img.Disk.Firmware != firmware {
			t.Errorf("the appliance has become another disk, started by %s", img.Disk.Firmware)
		}
	}
	if _, err := s.ImportDisk(t.Context(), bytes.NewReader(raw), image.DiskOptions{Name: "disk/arm", Format: disk.Raw, Arch: "arm64"}); err != nil {
		t.Fatal(err)
	}
	if err := s.ExportDisk(t.Context(), "disk/arm", image.OVA, io.Discard); !api.IsKind(err, api.Unsupported) || !strings.Contains(err.Error(), "arm64") {
		t.Errorf("an appliance of arm64: %v", err)
	}
}

type ovaFile struct {
	name string
	data []byte
}

// unpackOVA returns the files of an appliance: descriptor, manifest, disk, in that order.
func unpackOVA(t *testing.T, ova []byte) (files []ovaFile) {
	t.Helper()
	if string(ova[257:263]) != "ustar\x00" {
		t.Errorf("the archive is no ustar but %q", ova[257:265])
	}
	in := tar.NewReader(bytes.NewReader(ova))
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, ovaFile{h.Name, data})
	}
	if len(files) != 3 || files[0].name != "app-1.0.ovf" || files[1].name != "app-1.0.mf" || files[2].name != "app-1.0-disk1.vmdk" {
		t.Fatalf("the appliance has %d files", len(files))
	}
	return files
}

// checkOVF reads a descriptor by its namespaces: what it refers to is there, and what
// each device says of itself comes in the order of the schema.
func checkOVF(t *testing.T, descriptor, vmdk ovaFile, capacity int64) {
	t.Helper()
	const ovf, rasd = "http://schemas.dmtf.org/ovf/envelope/1 ", "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData "
	seen, in := map[string]string{}, xml.NewDecoder(bytes.NewReader(descriptor.data))
	path, last := []string{}, ""
	for {
		token, err := in.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch e := token.(type) {
		case xml.StartElement:
			if !strings.HasPrefix(e.Name.Space, "http://") {
				t.Errorf("element %s has the namespace %q", e.Name.Local, e.Name.Space)
			}
			path = append(path, e.Name.Local)
			if e.Name.Local == "Item" {
				last = ""
			}
			if e.Name.Space+" " == rasd {
				if e.Name.Local <= last {
					t.Errorf("%s comes after %s", e.Name.Local, last)
				}
				last = e.Name.Local
			}
			for _, a := range e.Attr {
				if a.Name.Space != "xmlns" && a.Name.Local != "xmlns" && !strings.HasPrefix(a.Name.Space, "http://") {
					t.Errorf("attribute %s has the namespace %q", a.Name.Local, a.Name.Space)
				}
				if a.Name.Space+" " == ovf {
					seen[e.Name.Local+" "+a.Name.Local] = a.Value
				}
			}
		case xml.EndElement:
			path = path[:len(path)-1]
		}
	}
	for what, want := range map[string]string{
		"File href": vmdk.name, "File size": fmt.Sprint(len(vmdk.data)), "Disk capacity": fmt.Sprint(capacity), "Disk capacityAllocationUnits": "byte",
		"Disk fileRef": seen["File id"], "Disk format": "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized", "VirtualSystem id": "app-1.0",
	} {
		if seen[what] != want {
			t.Errorf("%s is %q, want %q", what, seen[what], want)
		}
	}
	if len(path) != 0 || !bytes.HasPrefix(vmdk.data, []byte("KDMV")) {
		t.Error("the descriptor does not end, or the disk is no VMDK")
	}
}

// FuzzOVA: whatever an appliance holds, its reader ends with a disk or an error.
func FuzzOVA(f *testing.F) {
	f.Add(appliance(f, "a.ovf", efiDescriptor, "a.vmdk", "KDMV"))
	f.Add(appliance(f, "a.ovf", `<a><Firmware type="EFI"/></a>`))
	s := openAt(f, f.TempDir(), image.Options{})
	f.Fuzz(func(t *testing.T, ova []byte) {
		if _, err := s.ImportDisk(t.Context(), bytes.NewReader(ova), image.DiskOptions{Name: "disk/fuzz", Format: image.OVA}); err == nil {
			t.Error("a store that converts no disks has imported one in VMDK")
		}
	})
}
