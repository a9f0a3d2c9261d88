package guest

import (
	"os"
	"path/filepath"
	"testing"
)

// TestProbe tells what a device begins as, and reads no further than it is long.
func TestProbe(t *testing.T) {
	for kind, write := range map[string]map[int64]string{
		"":      {0: "anything"},
		"xfs":   {0: "XFSB"},
		"ext4":  {1080: "\x53\xef"},
		"btrfs": {65600: "_BHRfS_M"},
		"lvm":   {512: "LABELONE"},
		"luks":  {0: "LUKS\xba\xbe"},
		"md":    {4096: "\xfc\x4e\x2b\xa9"},
	} {
		path := filepath.Join(t.TempDir(), "device")
		file, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		for at, text := range write {
			if _, err := file.WriteAt([]byte(text), at); err != nil {
				t.Fatal(err)
			}
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
		if got, err := probe(path); err != nil || got != kind {
			t.Errorf("%q is taken for %q, %v", kind, got, err)
		}
	}
}

// FuzzDisk reads whatever a disk begins with.
func FuzzDisk(f *testing.F) {
	f.Add([]byte("XFSB"))
	f.Add(append(make([]byte, 512), "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00"...))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "device")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := probe(path); err != nil {
			t.Error(err)
		}
		for number := range gptTypes(path) {
			if number < 1 {
				t.Errorf("there is a partition %d", number)
			}
		}
	})
}
