package image

import (
	"os"
	"path/filepath"
	"testing"
)

// TestLookAt finds out what a root filesystem has that starts it. A link that leads out of
// it is no file of it.
func TestLookAt(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "fstab")
	if err := os.WriteFile(outside, []byte("/dev/vda / ext4\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		files map[string]string
		want  treeFacts
	}{
		"nothing":       {nil, treeFacts{files: 1}},
		"an init":       {map[string]string{"sbin/init": "-> /bin/busybox", "etc/inittab": "x"}, treeFacts{init: "/sbin/init", boots: true, files: 5}},
		"only a shell":  {map[string]string{"bin/sh": "x"}, treeFacts{files: 3}},
		"Debian":        {map[string]string{"usr/lib/systemd/systemd": "x", "vmlinuz": "-> boot/vmlinuz-2", "initrd.img": "-> boot/initrd.img-2"}, treeFacts{init: "/usr/lib/systemd/systemd", systemd: true, boots: true, kernel: "/vmlinuz", initrd: "/initrd.img", files: 7}},
		"the newest":    {map[string]string{"boot/vmlinuz-1": "", "boot/initrd.img-1": "", "boot/vmlinuz-2": "", "boot/initramfs-2.img": "", "boot/vmlinuz-3": ""}, treeFacts{kernel: "/boot/vmlinuz-2", initrd: "/boot/initramfs-2.img", files: 7}},
		"an odd name":   {map[string]string{"boot/vmlinuz-1\n}": "", "boot/initrd.img-1\n}": ""}, treeFacts{files: 4}},
		"a table":       {map[string]string{"etc/fstab": "# / comment\nUUID=1 / ext4 ro 0 1\n"}, treeFacts{fstab: true, files: 3}},
		"a comment":     {map[string]string{"etc/fstab": "# / comment\n"}, treeFacts{files: 3}},
		"a way outside": {map[string]string{"etc/fstab": "-> " + outside}, treeFacts{files: 3}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := writeTree(dir, c.files); err != nil {
				t.Fatal(err)
			}
			tree, err := os.OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer tree.Close()
			got, err := lookAt(t.Context(), tree)
			got.bytes = 0
			if err != nil || got != c.want {
				t.Errorf("got  %+v, %v\nwant %+v", got, err, c.want)
			}
		})
	}
}
