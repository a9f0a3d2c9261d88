package storage

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestHas stacks directories as mounted layers would be.
func TestHas(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("whiteouts and their attributes need root")
	}
	s := &Storage{run: t.TempDir()}
	layers := []Layer{{Digest: "sha256:low"}, {Digest: "sha256:middle"}, {Digest: "sha256:top"}}
	in := func(layer int, name string) string { return filepath.Join(s.LayerDir(layers[layer]), name) }
	err := errors.Join(
		os.MkdirAll(in(0, "etc/deep"), 0o755), os.WriteFile(in(0, "etc/deep/file"), nil, 0o600), os.WriteFile(in(0, "etc/gone"), nil, 0o600),
		os.MkdirAll(in(0, "opt/old"), 0o755), os.MkdirAll(in(0, "var/x"), 0o755),
		os.MkdirAll(in(1, "etc"), 0o755), unix.Mknod(in(1, "etc/gone"), unix.S_IFCHR, 0),
		os.MkdirAll(in(1, "opt"), 0o755), unix.Setxattr(in(1, "opt"), "trusted.overlay.opaque", []byte("y"), 0),
		os.MkdirAll(in(2, ""), 0o755), os.WriteFile(in(2, "var"), nil, 0o600), os.Symlink("/", in(2, "out")),
	)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"/": true, "etc": true, "/etc/deep/file": true, "etc/gone": false, "etc/none": false,
		"opt": true, "opt/old": false, "var": true, "var/x": false, "out": true, "out/etc": false, "../../etc": true,
	} {
		if got, err := s.Has(layers, name); got != want || err != nil {
			t.Errorf("%s: %v, %v, want %v", name, got, err, want)
		}
	}
}
