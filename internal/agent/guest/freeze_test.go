package guest

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestOnDisks: what is frozen are the disks' filesystems that can be written to, once.
func TestOnDisks(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mountinfo")
	err := os.WriteFile(file, []byte(`22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda3 rw,errors=remount-ro
23 22 0:5 / /dev rw,nosuid - devtmpfs udev rw,size=1k
24 22 254:2 / /boot/efi rw,relatime - vfat /dev/vda2 rw
25 22 254:16 / /run/seed ro,relatime - vfat /dev/vdb ro
26 22 254:1 /var /srv/my\040var rw - ext4 /dev/vda3 rw
27 22 254:32 / /srv/my\040disk rw shared:9 master:2 - xfs /dev/vdc rw
28 22 7:0 / /snap ro - squashfs /dev/loop0 ro
broken
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	got, err := onDisks(file)
	if want := []string{"/", "/boot/efi", "/srv/my disk"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
}
