package e2e

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/testenv"
)

// vmBuildScenarios make images of Dockerfiles that are not trusted.
var vmBuildScenarios = []scenario{
	{"build in VMs", localOnly, vms, buildsInVMs},
	{"build in VMs, apart", localOnly, vms, vmBuildsApart},
	{"build in VMs, secrets", localOnly, vms, vmBuildSecrets},
}

// buildsInVMs makes the image that a build in containers makes, to the byte. The steps'
// kernel is another one.
func buildsInVMs(t *testing.T, w *world, _ api.Kind) {
	dir := buildContext(t, map[string]string{"file": "content\n", "Dockerfile": `FROM base AS one
WORKDIR /srv/app
COPY --chown=5:6 --chmod=640 file sub/
RUN echo made >made && chown 7:8 made && chmod 4711 made && ln made twice && ln -s made link && mkfifo pipe && touch -d '2001-02-03 04:05:06' file
RUN rm -r /bin/vi /etc/group sub && mkdir sub && echo new >sub/new && chmod 700 sub && mkdir -m 1777 sticky
RUN touch /etc/hosts /etc/resolv.conf && sleep 600 & sleep 600 >/dev/null & echo "left running"
FROM one
USER 12:13
RUN test "$(id -u):$(id -g)" = 12:13 && ! touch /no && touch /srv/app/sticky/mine && ! mknod /tmp/null c 1 3
FROM one
COPY --from=1 /srv/app/sticky /sticky
RUN test "$(stat -c %u:%g /sticky/mine)" = 12:13 && cat made && test "$(stat -c %h%f made)" = 289c9 && test -p pipe
`})
	var digests []string
	for _, more := range [][]string{nil, {"--vm"}} {
		w.build(t, append(more, "--build-arg", "SOURCE_DATE_EPOCH=1000000000", "-o", "type=image,name=made,rewrite-timestamp=true", dir)...)
		digests = append(digests, w.Berth(t, "image", "inspect", "--format", "{{.Digest}}", "made"))
	}
	w.later(t, "image", "rm", "made")
	if digests[0] != digests[1] {
		t.Errorf("containers and VMs make %q", digests)
	}
	kernel := buildContext(t, map[string]string{"Dockerfile": "FROM base\nRUN test $(uname -r) != " + testenv.Shell(t, w.Machine, "uname -r") + "\n"})
	w.build(t, "--vm", kernel)
}

// vmBuildsApart has an untrusted build lay traps: a link in a cache mount and in the root
// filesystem that lead to the host, and a cache for a trusted build to find.
func vmBuildsApart(t *testing.T, w *world, _ api.Kind) {
	host := buildContext(t, map[string]string{"victim": "the host's"})
	traps := buildContext(t, map[string]string{"Dockerfile": `FROM base
RUN --mount=type=cache,id=trap,target=/c ln -s ` + host + ` /c/dir && ln -s ` + host + `/victim /c/file && ln -s ` + host + ` /dir && ln -s ` + host + ` /srv
RUN --mount=type=cache,id=trap,target=/c rm /c/dir && mkdir /c/dir && echo attack >/c/dir/victim && rm /c/file && echo attack >/c/file && rm /dir && mkdir /dir && echo attack >/dir/victim && mkdir -p ` + host + ` && echo attack >/srv/victim
RUN --mount=type=cache,id=trap,target=/c,source=dir cat /c/victim >/found && grep attack /found /srv/victim
`})
	w.build(t, "--vm", traps)
	if text := testenv.Shell(t, w.Machine, "cat "+host+"/victim; ls "+host); text != "the host'svictim" {
		t.Errorf("the host's directory holds %q", text)
	}
	const same = "FROM base\nRUN echo 'it 'runs\n"
	untrusted := buildContext(t, map[string]string{"Dockerfile": same})
	trusted := buildContext(t, map[string]string{"Dockerfile": same + "RUN --mount=type=cache,id=trap,target=/c test -z \"$(ls /c)\"\n"})
	w.build(t, "--vm", untrusted)
	wants(t, "a trusted build after an untrusted one", w.build(t, trusted), "it runs")
	wants(t, "prune", w.Berth(t, "builder", "prune", "-f"), "freed")
	wants(t, "an untrusted build with an empty cache", w.build(t, "--vm", untrusted), "it runs")
}

// vmBuildSecrets looks for a secret on the disk while a step has it, and after.
func vmBuildSecrets(t *testing.T, w *world, _ api.Kind) {
	secret := filepath.Join(buildContext(t, map[string]string{"token": "hidden-from-disks"}), "token")
	cancel, done, pid := startStep(t, w, api.VM, `FROM base
RUN --mount=type=secret,id=token,target=/t,env=TOKEN test "$(cat /t)" = "$TOKEN" && echo "mark"er-on-the-disk >/mark && sync && exec sleep 987654
`, "--secret", "id=token,src="+secret)
	holds := func(text string) bool {
		return holdsBytes(t, w.Dir+"/root", text) || holdsBytes(t, w.RunDir(), text)
	}
	testenv.Eventually(t, time.Minute, func() error {
		if !holds("marker-on-the-disk") {
			return errors.New("the step has written nothing to its disk")
		}
		return nil
	})
	if holds("hidden-from-disks") {
		t.Error("the secret is on the disk")
	}
	cancel()
	<-done
	testenv.Eventually(t, time.Minute, func() error { return w.noProcess(t, pid) })
	if holds("hidden-from-disks") || holds("marker-on-the-disk") {
		t.Error("something of an interrupted step is left")
	}
}

// holdsBytes reports whether a file at or below a directory holds a text. Holes are not
// read: the disks of VMs are mostly that.
func holdsBytes(t *testing.T, dir, text string) (found bool) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && !d.Type().IsRegular() {
			return nil
		}
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer f.Close()
		for end := int64(0); ; {
			start, err := f.Seek(end, unix.SEEK_DATA)
			if errors.Is(err, unix.ENXIO) {
				return nil
			}
			if end, err = f.Seek(start, unix.SEEK_HOLE); err != nil {
				return err
			}
			data := make([]byte, end-start)
			if n, err := f.ReadAt(data, start); err != nil && !errors.Is(err, io.EOF) {
				return err
			} else if bytes.Contains(data[:n], []byte(text)) {
				found = true
				return fs.SkipAll
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
