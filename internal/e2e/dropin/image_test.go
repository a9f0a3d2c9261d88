package dropin

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// applets are the commands of the image; busybox is all of them.
const applets = "sh cat id ls stat ps grep date head tail wc sleep true touch mkdir chown mount hostname dd echo env pwd readlink kill stty tty df ip test"

// archive writes the image "base", a busybox with two users, in the form of "docker
// save", which all engines read, and returns its path.
func archive(t *testing.T, dir string) string {
	t.Helper()
	layer := rootfs(t)
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{"Cmd": []string{"sh"}},
		"history": []map[string]any{{"created_by": "the test"}},
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	must(t, err)
	manifest, err := json.Marshal([]map[string]any{
		{"Config": "config.json", "RepoTags": []string{"base:latest"}, "Layers": []string{"layer.tar"}},
	})
	must(t, err)
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range []struct {
		name string
		data []byte
	}{{"layer.tar", layer}, {"config.json", config}, {"manifest.json", manifest}} {
		addFile(t, w, f.name, 0o644, f.data)
	}
	must(t, w.Close())
	path := filepath.Join(dir, "base.tar")
	must(t, os.WriteFile(path, out.Bytes(), 0o644))
	return path
}

// rootfs returns the image's only layer.
func rootfs(t *testing.T) []byte {
	t.Helper()
	program, err := exec.LookPath("busybox")
	must(t, err)
	busybox, err := os.ReadFile(program)
	must(t, err)
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, d := range []string{"bin", "dev", "etc", "proc", "sys", "tmp", "run"} {
		mode := int64(0o755)
		if d == "tmp" {
			mode = 0o1777
		}
		must(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: d + "/", Mode: mode}))
	}
	addFile(t, w, "bin/busybox", 0o755, busybox)
	for name := range strings.FieldsSeq(applets) {
		must(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox", Mode: 0o777}))
	}
	addFile(t, w, "etc/passwd", 0o644, []byte("root:x:0:0::/root:/bin/sh\nbob:x:1000:1001::/home/bob:/bin/sh\n"))
	addFile(t, w, "etc/group", 0o644, []byte("root:x:0:\nbob:x:1001:\n"))
	must(t, w.Close())
	return out.Bytes()
}

func addFile(t *testing.T, w *tar.Writer, name string, mode int64, data []byte) {
	t.Helper()
	must(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data))}))
	_, err := w.Write(data)
	must(t, err)
}
