package registry_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/berthcloud/berth/internal/disk"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/testenv"
)

// TestDisk pushes a disk in many chunks: the registry's host can start it, and so can who
// pulls it.
func TestDisk(t *testing.T) {
	r := open(t)
	name := r.addr + "/disk:1"
	raw := make([]byte, 48<<20)
	rand.NewChaCha8([32]byte{}).Read(raw[:40<<20])
	var digests []string
	for i := range 3 {
		s := r.store
		if i != 1 {
			var err error
			if s, err = image.Open(testenv.Dir(t), image.Options{}); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
		}
		here := name
		switch i {
		case 0:
			if _, err := s.ImportDisk(t.Context(), bytes.NewReader(raw), image.DiskOptions{Name: name, Format: disk.Raw}); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Push(t.Context(), name, image.PushOptions{}); err != nil {
				t.Fatal(err)
			}
		case 1:
			here = "localhost/disk:1"
		case 2:
			if _, err := s.Pull(t.Context(), name, image.PullOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		img, err := s.Resolve(t.Context(), here)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(img.Disk.Path); err != nil || !bytes.Equal(b, raw) {
			t.Errorf("%s has another disk: %v", here, err)
		}
		digests = append(digests, img.Digest)
	}
	if digests[0] != digests[1] || digests[1] != digests[2] {
		t.Errorf("the image has the digests %v", digests)
	}
}
