package e2e

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/testenv"
)

// serve runs a server on the world's machine for as long as the scenario, and waits for
// its port.
func (w *world) serve(t *testing.T, port, command string) {
	t.Helper()
	pid := testenv.Shell(t, w.Machine, command+" >/dev/null 2>&1 </dev/null & echo $!")
	t.Cleanup(func() {
		testenv.Shell(t, w.Machine, "kill "+pid)
		w.WaitGone(t, pid)
	})
	testenv.Eventually(t, time.Minute, func() error {
		if testenv.Shell(t, w.Machine, "busybox nc -w 1 127.0.0.1 "+port+" </dev/null >/dev/null 2>&1 && echo open || true") == "" {
			return errors.New("nothing listens on port " + port)
		}
		return nil
	})
}

// buildSources takes context and files from servers.
func buildSources(t *testing.T, w *world, _ api.Kind) {
	dir := buildContext(t, map[string]string{
		"checkout/sub/Dockerfile": "FROM base\nCOPY file /\nADD --checksum=sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03 http://127.0.0.1:18001/hello /\n",
		"checkout/sub/file":       "of git\n",
		"www/hello":               "hello\n",
		"www/Dockerfile":          "FROM base\nCOPY --from=more /sub/file /more\nRUN echo http >/file\n",
		"www/wrong":               "FROM base\nADD --checksum=sha256:0000b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03 http://127.0.0.1:18001/hello /\n",
	})
	git := "git -C " + dir + "/checkout -c user.name=a -c user.email=a@example.com -c init.defaultBranch=main "
	testenv.Shell(t, w.Machine, git+"init -q && "+git+"add . && "+git+"commit -qm one && git clone -q --bare "+dir+"/checkout "+dir+"/repo.git")
	testenv.Shell(t, w.Machine, "tar -C "+dir+"/checkout/sub -czf "+dir+"/www/context.tar.gz .")
	w.serve(t, "18000", "exec "+testenv.Shell(t, w.Machine, "git --exec-path")+"/git-daemon --reuseaddr --export-all --listen=127.0.0.1 --port=18000 --base-path="+dir)
	w.serve(t, "18001", "exec busybox httpd -f -p 127.0.0.1:18001 -h "+dir+"/www")
	const repository = "git://127.0.0.1:18000/repo.git#main"
	w.later(t, "image", "rm", "made")
	w.build(t, "-t", "made", repository+":sub")
	expect(t, "of git", w.Try(t.Context(), "run", "--rm", "made", "cat", "/file", "/hello"), 0, "of git\nhello\n")
	w.build(t, "-t", "made", "http://127.0.0.1:18001/context.tar.gz")
	expect(t, "of an archive", w.Try(t.Context(), "run", "--rm", "made", "cat", "/file"), 0, "of git\n")
	w.build(t, "-t", "made", "--build-context", "more="+repository, "http://127.0.0.1:18001/Dockerfile")
	expect(t, "of a Dockerfile", w.Try(t.Context(), "run", "--rm", "made", "cat", "/file", "/more"), 0, "http\nof git\n")
	r := w.Try(t.Context(), "build", "-f", filepath.Join(dir, "www/wrong"), dir)
	expect(t, "another digest", r, 1, "")
	wants(t, "another digest", r.Stderr, "berth: build: digest mismatch")
	refused(t, "no repository", w.Try(t.Context(), "build", "-q", "git://127.0.0.1:18000/nothing.git"), 1, "nothing.git")
}

// buildCacheElsewhere puts results of steps to a registry, Berth's own, and takes them
// from there.
func buildCacheElsewhere(t *testing.T, w *world, _ api.Kind) {
	const registry = "127.0.0.1:18002"
	dir := buildContext(t, map[string]string{"rights": "anyone localhost/* pull,push\n", "Dockerfile": "FROM base\nRUN echo ran && date >/x\nRUN echo ran && cat /x >/y\n"})
	testenv.NewDaemon(t, w.Machine, "--registry", registry, "--registry-rights", filepath.Join(dir, "rights"))
	taken := func(what, from string) {
		t.Helper()
		w.Berth(t, "builder", "prune", "-f")
		again := w.build(t, "-t", "made", "--cache-from", from, dir)
		w.later(t, "image", "rm", "-f", "made")
		if strings.Contains(again, " ran\n") { // what is fetched is not always called CACHED
			t.Errorf("%s: the steps are made again:\n%s", what, again)
		}
		expect(t, what, w.Try(t.Context(), "run", "--rm", "made", "cmp", "/x", "/y"), 0, "")
	}
	w.build(t, "--cache-to", "type=registry,ref="+registry+"/cache:1,mode=max", dir)
	taken("a cache in a registry", "type=registry,ref="+registry+"/cache:1")
	app := registry + "/app:1"
	w.build(t, "-t", app, "--cache-to", "inline", "--no-cache", dir)
	w.Berth(t, "push", app)
	w.Berth(t, "image", "rm", app)
	taken("a cache in an image", app)
	r := w.Try(t.Context(), "build", "-q", "--cache-to", "type=s3,bucket=b", dir)
	refused(t, "a cache in a cloud", r, 1, "s3")
}

// buildPlatforms makes an index of images.
func buildPlatforms(t *testing.T, w *world, _ api.Kind) {
	dir := buildContext(t, map[string]string{"Dockerfile": `FROM --platform=$BUILDPLATFORM base AS made
ARG TARGETARCH
RUN echo for $TARGETARCH >/arch
FROM scratch
COPY --from=made /arch /
`, "foreign": "FROM base:arm64\nRUN true\n"})
	archive := filepath.Join(testenv.Dir(t), "index.tar")
	w.build(t, "--platform", "linux/amd64,linux/arm64,linux/riscv64", "--provenance", "-o", "type=oci,dest="+archive, dir)
	platforms := map[string]int{}
	for _, text := range ociBlobs(t, archive) {
		var index struct {
			Manifests []struct {
				Platform struct{ Architecture string }
			}
		}
		if json.Unmarshal(text, &index) == nil && len(index.Manifests) > 1 {
			for _, m := range index.Manifests {
				platforms[m.Platform.Architecture]++
			}
		}
	}
	if len(platforms) != 4 || platforms["unknown"] != 3 { // attestations are of none
		t.Errorf("the index has %v", platforms)
	}
	w.build(t, "-t", "made", "--platform", "linux/amd64,linux/arm64", dir)
	w.later(t, "image", "rm", "made")
	r := w.Try(t.Context(), "build", "--platform", "linux/arm64", "-f", filepath.Join(dir, "foreign"), dir)
	if _, err := os.Stat("/proc/sys/fs/binfmt_misc/qemu-aarch64"); err != nil {
		expect(t, "a step of another architecture", r, 1, "")
		wants(t, "a step of another architecture", r.Stderr, "berth: build: foreign:2:1: ", "qemu-user-static", "binfmt_misc")
	} else if r.Exit != 0 {
		t.Errorf("an emulated step: %s", r)
	}
}

// buildAttests adds attestations.
func buildAttests(t *testing.T, w *world, _ api.Kind) {
	dir := buildContext(t, map[string]string{"Dockerfile": "FROM base\nARG TOKEN\nRUN echo $TOKEN >/x\n"})
	archive := filepath.Join(testenv.Dir(t), "image.tar")
	for mode, wanted := range map[string]bool{"min": false, "max": true} {
		w.build(t, "--build-arg", "TOKEN=told", "--provenance=mode="+mode, "-o", "type=oci,dest="+archive, dir)
		statements := 0
		for _, text := range ociBlobs(t, archive) {
			var statement struct{ PredicateType string }
			if json.Unmarshal(text, &statement) != nil || !strings.Contains(statement.PredicateType, "slsa.dev/provenance") {
				continue
			}
			statements++
			if told := strings.Contains(string(text), "told"); told != wanted {
				t.Errorf("mode=%s tells arguments: %v", mode, told)
			}
		}
		if statements != 1 {
			t.Errorf("mode=%s: %d statements", mode, statements)
		}
	}
	refused(t, "no such mode", w.Try(t.Context(), "build", "-q", "--provenance=mode=other", dir), 1, "other")
	// The default one would be asked for at a registry that no test reaches.
	r := w.Try(t.Context(), "build", "--sbom=generator=127.0.0.1:1/buildkit-syft-scanner", dir)
	expect(t, "no scanner", r, 1, "")
	wants(t, "no scanner", r.Stderr, "berth: build: ", "scanner", "--sbom=generator=IMAGE")
}

// buildProgress tells progress as JSON, and a result as a tar stream.
func buildProgress(t *testing.T, w *world, _ api.Kind) {
	dir := buildContext(t, map[string]string{"Dockerfile": "FROM base AS made\nRUN echo said && echo x >/x\nFROM scratch\nCOPY --from=made /x /\n"})
	r := w.Try(t.Context(), "build", "--no-cache", "--progress", "rawjson", "-o", "-", dir)
	if r.Exit != 0 {
		t.Fatalf("build: %s", r)
	}
	said := false
	for line := range strings.Lines(r.Stderr) {
		var status struct {
			Logs []struct{ Data []byte }
		}
		if err := json.Unmarshal([]byte(line), &status); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		for _, l := range status.Logs {
			said = said || string(l.Data) == "said\n"
		}
	}
	if !said {
		t.Errorf("what the step said is not there:\n%s", r.Stderr)
	}
	h, err := tar.NewReader(strings.NewReader(r.Stdout)).Next()
	if err != nil || h.Name != "x" || h.Size != 2 {
		t.Errorf("the stream begins with %+v, %v", h, err)
	}
	out := filepath.Join(testenv.Dir(t), "out.tar")
	w.build(t, "-o", "type=tar,dest="+out, dir)
	if text, err := os.ReadFile(out); err != nil || len(text) == 0 {
		t.Errorf("type=tar: %d bytes, %v", len(text), err)
	}
	refused(t, "no such output", w.Try(t.Context(), "build", "-q", "-o", "type=nothing", dir), 1, "nothing")
}

// ociBlobs are the blobs of an image layout's archive that are no layers.
func ociBlobs(t *testing.T, path string) (blobs [][]byte) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return blobs
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(h.Name, "blobs/") && h.Typeflag == tar.TypeReg && h.Size < 256<<10 {
			text, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			blobs = append(blobs, text)
		}
	}
}
