package disk

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestCreateQcow2 has qemu-img judge what was written.
func TestCreateQcow2(t *testing.T) {
	for _, size := range []int64{512, 3 << 20, 10 << 30, 8 << 40} {
		path := filepath.Join(t.TempDir(), "disk")
		if err := CreateQcow2(path, size); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"check", "-f", "qcow2", path}, {"info", "-f", "qcow2", path}} {
			out, err := exec.Command("qemu-img", args...).CombinedOutput()
			if err != nil || strings.Contains(string(out), "backing") {
				t.Errorf("%d bytes: qemu-img %s: %v\n%s", size, args[0], err, out)
			}
		}
		if err := CreateQcow2(path, size); err == nil {
			t.Error("an existing file was overwritten")
		}
	}
	if err := CreateQcow2(filepath.Join(t.TempDir(), "disk"), 0); err == nil {
		t.Error("a disk of no bytes was made")
	}
}
