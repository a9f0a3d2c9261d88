package guest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthcloud/berth/internal/disk"
)

// gptDisk is a disk of so many sectors whose two partitions, of 8192 and 16384 sectors
// where it is large enough, lie at its beginning.
func gptDisk(t testing.TB, sectors int64) []byte {
	t.Helper()
	unit := min(sectors/8, 8192) * sectorSize
	size := 3*unit + 88*sectorSize // room for both tables, and for parts to be aligned
	joined, err := disk.Join([]disk.Part{{Name: "boot", Path: "a", Size: unit}, {Name: "root", Path: "b", Size: 2 * unit}}, size, "head", "tail")
	if err != nil {
		t.Fatal(err)
	}
	image := make([]byte, sectors*sectorSize)
	copy(image, joined.Head)
	copy(image[size-int64(len(joined.Tail)):], joined.Tail)
	return image
}

// mbrDisk is a disk with two partitions in a master boot record.
func mbrDisk(sectors int64) []byte {
	image := make([]byte, sectors*sectorSize)
	for i, part := range [][2]uint32{{64, 1000}, {2048, 4096}} {
		e := image[mbrTable+i*mbrEntry:]
		e[4] = 0x83
		binary.LittleEndian.PutUint32(e[8:], part[0])
		binary.LittleEndian.PutUint32(e[12:], part[1])
	}
	image[510], image[511] = 0x55, 0xaa
	return image
}

// memoryDisk is a disk in memory.
type memoryDisk struct{ data []byte }

func (d memoryDisk) ReadAt(p []byte, at int64) (int, error) {
	return bytes.NewReader(d.data).ReadAt(p, at)
}

func (d memoryDisk) WriteAt(p []byte, at int64) (int, error) {
	if at < 0 || at+int64(len(p)) > int64(len(d.data)) {
		return 0, fmt.Errorf("a write of %d bytes at %d, of %d", len(p), at, len(d.data))
	}
	return copy(d.data[at:], p), nil
}

func (memoryDisk) Sync() error { return nil }

// partitions is what util-linux reads of a disk: where each begins and how long it is.
func partitions(t *testing.T, image []byte) string {
	t.Helper()
	partx, err := exec.LookPath("partx")
	if err != nil {
		t.Skip("needs partx, of util-linux")
	}
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, image, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(partx, "-g", "-b", "-o", "START,SECTORS", file).CombinedOutput()
	if err != nil {
		t.Fatalf("partx: %v: %s", err, out)
	}
	return strings.Join(strings.Fields(string(out)), " ")
}

// TestGrowPartition grows the last partition of a disk that has become larger, which
// util-linux confirms, by the table and by its copy.
func TestGrowPartition(t *testing.T) {
	const sectors = 65536
	gpt := gptDisk(t, sectors)
	start, length, err := growPartition(memoryDisk{gpt}, sectors, 2)
	if err != nil || start != 40+8192 || start+length != (sectors-33)/8*8 {
		t.Fatalf("GPT: from %d, %d sectors, %v", start, length, err)
	}
	want := fmt.Sprintf("40 8192 %d %d", start, length)
	if got := partitions(t, gpt); got != want {
		t.Errorf("partx reads %q, want %q", got, want)
	}
	torn := bytes.Clone(gpt)
	clear(torn[sectorSize : 2*sectorSize])
	if got := partitions(t, torn); got != want {
		t.Errorf("the copy has %q, want %q", got, want)
	}
	if _, again, err := growPartition(memoryDisk{gpt}, sectors, 2); err != nil || again != length {
		t.Errorf("once more: %d sectors, %v", again, err)
	}

	mbr := mbrDisk(sectors)
	if start, length, err := growPartition(memoryDisk{mbr}, sectors, 2); err != nil || start != 2048 || length != sectors-2048 {
		t.Errorf("MBR: from %d, %d sectors, %v", start, length, err)
	}
	if got := partitions(t, mbr); got != "64 1000 2048 63488" {
		t.Errorf("partx reads %q", got)
	}
}

// TestGrowPartitionRefuses leaves a table alone that is not as it should be.
func TestGrowPartitionRefuses(t *testing.T) {
	const sectors = 65536
	flipped := gptDisk(t, sectors)
	flipped[2*sectorSize+300]++
	flipped[40*sectorSize]++
	header := gptDisk(t, sectors)
	header[sectorSize+90]++
	for name, c := range map[string]struct {
		image  []byte
		number int
		want   string
	}{
		"no table":          {make([]byte, sectors*sectorSize), 1, "no partition table"},
		"one behind":        {gptDisk(t, sectors), 1, "partition 2 lies behind partition 1"},
		"one behind in MBR": {mbrDisk(sectors), 1, "partition 2 lies behind partition 1"},
		"no such":           {gptDisk(t, sectors), 200, "no partition 200"},
		"an empty one":      {gptDisk(t, sectors), 7, "lies behind"},
		"a logical one":     {mbrDisk(sectors), 5, "logical"},
		"broken header":     {header, 2, "broken"},
		"broken entries":    {flipped, 2, "broken"},
	} {
		before := bytes.Clone(c.image)
		if _, _, err := growPartition(memoryDisk{c.image}, sectors, c.number); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if !bytes.Equal(before, c.image) {
			t.Errorf("%s: the disk was written to", name)
		}
	}
}

// FuzzGrowPartition: whatever a table says, nothing outside the disk is written, and what
// comes out lies on it.
func FuzzGrowPartition(f *testing.F) {
	f.Add(gptDisk(f, 1024)[:34*sectorSize], 2)
	f.Add(mbrDisk(1024)[:sectorSize], 1)
	f.Fuzz(func(t *testing.T, head []byte, number int) {
		const sectors = 1024
		image := make([]byte, sectors*sectorSize)
		copy(image, head)
		start, length, err := growPartition(memoryDisk{image}, sectors, number)
		if err == nil && (start == 0 || length == 0 || length > sectors || start+length > sectors) {
			t.Errorf("from %d, %d sectors of %d", start, length, sectors)
		}
	})
}
