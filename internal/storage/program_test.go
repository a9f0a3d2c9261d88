package storage

import (
	"archive/tar"
	"os"
	"path/filepath"
	"testing"

	"github.com/berthcloud/berth/api"
)

func TestProgram(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	s, err := Open(t.TempDir(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	sym := func(name, target string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
	}
	image := packLayer(t,
		tar.Header{Typeflag: tar.TypeReg, Name: "lib/systemd/systemd", Linkname: "program"},
		tar.Header{Typeflag: tar.TypeReg, Name: "etc/text", Linkname: "x", Mode: 0o644},
		sym("sbin/init", "/lib/systemd/systemd"), sym("relative", "../../../../../../lib/systemd/systemd"),
		sym("out", "/etc/../../../../../../../../bin/true"), sym("loop", "loop"), sym("sbin/dir", "/lib"))
	dirs, err := s.Mount(t.Context(), "m", []Layer{image})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		s.Release("m")
		sweep(t, s)
	}()
	upper := t.TempDir()
	for _, c := range []struct{ file, want string }{
		{"/sbin/init", "systemd"}, {"/relative", "systemd"}, {"/lib/systemd/systemd", "systemd"},
		{"/out", ""}, {"/loop", ""}, {"/sbin/dir", ""}, {"/etc/text", ""}, {"/etc/text/below", ""}, {"/nothing", ""},
	} {
		for _, stack := range [][]string{dirs, append(dirs[:1:1], upper)} {
			got, err := s.Program(stack, c.file)
			if got != c.want || c.want == "" && !api.IsKind(err, api.NotFound) || c.want != "" && err != nil {
				t.Errorf("%s in %d directories: %q, %v; want %q", c.file, len(stack), got, err, c.want)
			}
		}
	}
	// What the instance has written is above the image.
	if err := os.MkdirAll(filepath.Join(upper, "sbin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(upper, "sbin/init"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Program(append(dirs[:1:1], upper), "/sbin/init"); err != nil || got != "init" {
		t.Errorf("the instance's own init: %q, %v", got, err)
	}
}
