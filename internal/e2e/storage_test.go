package e2e

import (
	"strings"
	"testing"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/testenv"
)

// storageScenarios are about what outlives an instance, and what goes in and
// out of it.
var storageScenarios = []scenario{
	{"volume for both kinds", localOnly, nil, volumeForBoth},
	{"further disks", []place{local, user}, vms, furtherDisks},
	{"bind mount", realOnly, both, bindMount},
	{"copy", realOnly, both, copyFiles},
	{"image export and import", localOnly, nil, exportImport},
	{"many layers", localOnly, both, manyLayers},
}

func volumeForBoth(t *testing.T, w *world, _ api.Kind) {
	w.later(t, "volume", "rm", "shared")
	expect(t, "write", w.Try(t.Context(), run(api.Container, "--rm", "-v", "shared:/data", "base", "sh", "-c", "echo from the container >/data/a")...), 0, "")
	expect(t, "read and write", w.Try(t.Context(), run(api.VM, "--rm", "-v", "shared:/data", "base", "sh", "-c", "cat /data/a; echo from the VM >/data/b")...), 0, "from the container\n")
	expect(t, "read", w.Try(t.Context(), run(api.Container, "--rm", "-v", "shared:/data:ro", "base", "sh", "-c", "cat /data/b; touch /data/c 2>/dev/null || echo read-only")...), 0, "from the VM\nread-only\n")
	w.start(t, api.Container, "holder", "-v", "shared:/data", "base", "sleep", "600")
	refused(t, "volume in use", w.Try(t.Context(), "volume", "rm", "shared"), 1, "shared", "holder")
	w.remove(t, "holder")
}

// furtherDisks are volumes too: made, listed, kept while they are in use, removed.
func furtherDisks(t *testing.T, w *world, kind api.Kind) {
	w.Berth(t, "volume", "create", "--size", "32m", "raw")
	w.later(t, "volume", "rm", "raw", "data")
	mounts := []string{"--mount", "type=disk,source=data,size=64m,target=/data", "--mount", "type=disk,src=raw"}
	w.start(t, kind, "writer", append(mounts, "base", "sh", "-c", "echo kept >/data/file; echo raw >/dev/disk/by-id/virtio-raw; sync; echo written; sleep 600")...)
	w.logged(t, "writer", "written")
	if got := w.Berth(t, "volume", "ls", "--format", "{{.Name}} {{.Size}} {{.Users}}"); !strings.Contains(got, "data 64MiB 1 instances") || !strings.Contains(got, "raw 32MiB 1 instances") {
		t.Errorf("berth volume ls says %q", got)
	}
	refused(t, "remove", w.Try(t.Context(), "volume", "rm", "data"), 1, "data", "writer")
	refused(t, "two writers", w.Try(t.Context(), append(run(kind, "--rm"), append(mounts, "base", "true")...)...), 125, "data", "writer runs with this disk")
	refused(t, "a container", w.Try(t.Context(), "run", "--rm", "--mount", "type=disk,src=raw", "base", "true"), 125, "raw", "--vm")
	w.Stop(t)
	w.Start(t)
	w.Berth(t, "stop", "-t", "1", "writer")
	expect(t, "read", w.Try(t.Context(), append(run(kind, "--rm"), append(mounts, "base", "sh", "-c", "cat /data/file; head -c 4 /dev/disk/by-id/virtio-raw")...)...), 0, "kept\nraw\n")
	w.remove(t, "writer")
}

func bindMount(t *testing.T, w *world, kind api.Kind) {
	dir := w.Machine.Temp() + "/bind-" + string(kind)
	testenv.Shell(t, w.Machine, "mkdir -p "+dir+" && chmod 0777 "+dir+" && echo hello >"+dir+"/in")
	expect(t, "run", w.Try(t.Context(), run(kind, "--rm", "-v", dir+":/mnt/here", "base", "sh", "-c", "cat /mnt/here/in; echo bye >/mnt/here/out")...), 0, "hello\n")
	if got := testenv.Shell(t, w.Machine, "cat "+dir+"/out"); got != "bye" {
		t.Errorf("the host reads %q", got)
	}
}

func copyFiles(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "box", "base", "sleep", "600")
	dir := w.Machine.Temp() + "/cp-" + string(kind)
	testenv.Shell(t, w.Machine, "mkdir -p "+dir+"/tree/sub && echo one >"+dir+"/tree/sub/file && ln -s sub/file "+dir+"/tree/link")
	w.Berth(t, "exec", "box", "mkdir", "/in")
	w.Berth(t, "cp", dir+"/tree", "box:/in")
	expect(t, "what went in", w.Try(t.Context(), "exec", "box", "cat", "/in/tree/link"), 0, "one\n")
	w.Berth(t, "exec", "box", "sh", "-c", "mkdir /out && cp -a /in/tree /out/ && ln -s /etc/passwd /out/trap")
	w.Berth(t, "cp", "box:/out", dir+"/back")
	if got := testenv.Shell(t, w.Machine, "find "+dir+"/back -name file -exec cat {} +; readlink "+dir+"/back/trap"); got != "one\n/etc/passwd" {
		t.Errorf("what came back: %q", got)
	}
	refused(t, "nothing to copy", w.Try(t.Context(), "cp", "box:/no/such", dir+"/x"), 1, "/no/such")
}

func exportImport(t *testing.T, w *world, _ api.Kind) {
	file := w.Machine.Temp() + "/base.tar"
	w.Berth(t, "image", "export", "-o", file, "base")
	w.Berth(t, "image", "import", file, "again")
	w.later(t, "image", "rm", "again")
	expect(t, "run", w.Try(t.Context(), run(api.Container, "--rm", "again", "echo", "same")...), 0, "same\n")
}

// manyLayers runs an image of 60 layers, more than a VM has disk slots.
func manyLayers(t *testing.T, w *world, kind api.Kind) {
	file := w.Machine.Temp() + "/layers.tar"
	testenv.Shell(t, w.Machine, "rm -f "+file)
	writeLayers(t, file, 60)
	name := "layers-" + string(kind)
	w.Berth(t, "image", "import", file, name)
	w.later(t, "image", "rm", name)
	r := w.Try(t.Context(), run(kind, "--rm", name, "/bin/busybox", "sh", "-c", "/bin/busybox cat /l/* | /bin/busybox wc -l; /bin/busybox cat /same")...)
	if r.Exit != 0 || strings.TrimSpace(r.Stdout) != "60\n59" {
		t.Errorf("want 60 files and the last layer's: %s", r)
	}
}
