package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/testenv"
)

// buildScenarios make images of Dockerfiles.
var buildScenarios = []scenario{
	{"build with a bill of materials", localOnly, nil, sbom},
	{"build", []place{local, user}, nil, builds},
	{"build runs as both kinds", localOnly, both, buildRuns},
	{"build stages", []place{local, user}, nil, buildStages},
	{"build mounts", []place{local, user}, both, buildMounts},
	{"build compressed", localOnly, nil, buildCompressed},
	{"build inputs", localOnly, nil, buildInputs},
	{"build network", localOnly, both, buildNetwork},
	{"build cache", localOnly, nil, buildCache},
	{"build refused", localOnly, both, buildRefused},
	{"build check", localOnly, nil, buildCheck},
	{"build corpus", localOnly, nil, buildCorpus},
	{"build sources", localOnly, nil, buildSources},
	{"build cache elsewhere", localOnly, nil, buildCacheElsewhere},
	{"build platforms", localOnly, nil, buildPlatforms},
	{"build attests", localOnly, nil, buildAttests},
	{"build progress", localOnly, nil, buildProgress},
	{"build outputs", localOnly, nil, buildOutputs},
	{"builds side by side", localOnly, nil, buildsSideBySide},
	{"build interrupted", localOnly, both, buildInterrupted},
	{"build, builder killed", localOnly, both, builderKilled},
	{"build, killed", localOnly, both, buildKilled},
}

// buildContext writes the files of a build context, by name, and returns its directory.
func buildContext(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := testenv.Dir(t)
	if err := os.Chmod(dir, 0o755); err != nil { // who builds may be another user
		t.Fatal(err)
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// build builds, and returns its progress.
func (w *world) build(t *testing.T, args ...string) string {
	t.Helper()
	r := w.Try(t.Context(), append([]string{"build", "--progress", "plain"}, args...)...)
	if r.Exit != 0 || r.Err != nil {
		t.Fatalf("berth build %s: %s", strings.Join(args, " "), r)
	}
	return r.Stderr
}

// in makes arguments of "berth build" for steps of a kind.
func in(kind api.Kind, args ...string) []string {
	if kind == api.VM {
		args = append([]string{"--vm"}, args...)
	}
	return args
}

// wants fails the test unless a text has all the words.
func wants(t *testing.T, what, text string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("%s lacks %q:\n%s", what, word, text)
		}
	}
}

// builds makes an image of a plain Dockerfile, and again from the cache.
func builds(t *testing.T, w *world, _ api.Kind) {
	w.later(t, "builder", "prune", "-f") // an ordinary user could not remove all of it by hand
	dir := buildContext(t, map[string]string{
		"Dockerfile": `FROM base
ARG WHO=nobody
ENV COLOR=blue
WORKDIR /srv/app
COPY --chown=5:6 --chmod=640 file sub/
RUN echo "$WHO $COLOR" >made && echo one:x:77:0::/:/bin/sh >>/etc/passwd && chown one made && ln made twice
RUN <<EOF
set -e
rm /bin/vi
mkfifo pipe
EOF
USER one
LABEL kind=test
ENTRYPOINT ["cat"]
CMD ["made"]
HEALTHCHECK CMD true
`,
		"file": "content\n", "ignored": "x", ".dockerignore": "ignored\n",
	})
	w.build(t, "-t", "made", "-t", "made:two", "--build-arg", "WHO=somebody", dir)
	w.later(t, "image", "rm", "made", "made:two")
	expect(t, "its command", w.Try(t.Context(), "run", "--rm", "made"), 0, "somebody blue\n")
	expect(t, "what it holds", w.Try(t.Context(), "run", "--rm", "--user", "0", "--entrypoint", "sh", "made", "-c",
		`stat -c "%n %a %u:%g %h" sub/file made; test -p pipe && ls -a; ! ls /bin/vi`), 0,
		"sub/file 640 5:6 1\nmade 644 77:0 2\n.\n..\nmade\npipe\nsub\ntwice\n")
	again := w.build(t, "-t", "made", "--build-arg", "WHO=somebody", dir)
	if n := strings.Count(again, "CACHED"); n != 4 {
		t.Errorf("%d steps are from the cache, not 4:\n%s", n, again)
	}
	if again := w.build(t, "-t", "made", "--no-cache", "--build-arg", "WHO=somebody", dir); strings.Count(again, "CACHED") > 1 { // WORKDIR depends on nothing
		t.Errorf("--no-cache takes steps from the cache:\n%s", again)
	}
	history := w.Berth(t, "image", "history", "--format", "{{.By}}", "made")
	wants(t, "history", history, "HEALTHCHECK", "COPY", "WORKDIR /srv/app")
}

// buildRuns runs what was built as either kind.
func buildRuns(t *testing.T, w *world, kind api.Kind) {
	dir := buildContext(t, map[string]string{"Dockerfile": "FROM base\nRUN echo built >/built\nRUN rm /bin/vi\n"})
	w.build(t, "-t", "made", dir)
	w.later(t, "image", "rm", "made")
	expect(t, "run", w.Try(t.Context(), run(kind, "--rm", "made", "sh", "-c", "cat /built; ls /bin/vi 2>&1")...), 1, "built\nls: /bin/vi: No such file or directory\n")
}

// buildStages takes files from stages, and gives files out.
func buildStages(t *testing.T, w *world, _ api.Kind) {
	w.later(t, "builder", "prune", "-f") // an ordinary user could not remove all of it by hand
	dir := buildContext(t, map[string]string{"Dockerfile": `FROM base AS one
RUN echo one >/one && chmod 600 /one
FROM base AS two
RUN echo two >/two
FROM scratch AS files
COPY --from=one /one /
COPY --from=two /two /sub/
FROM base
COPY --from=files / /got/
ONBUILD RUN echo onbuild >/onbuild
`})
	w.build(t, "-t", "made", dir)
	w.later(t, "image", "rm", "made")
	expect(t, "stages", w.Try(t.Context(), "run", "--rm", "made", "sh", "-c", "cd /got; ls -ln one | cut -c1-10; cat one sub/two"), 0, "-rw-------\none\ntwo\n")
	out := buildContext(t, nil)
	if err := os.Chmod(out, 0o777); err != nil {
		t.Fatal(err)
	}
	w.build(t, "--target", "files", "-o", out, dir)
	if text, err := os.ReadFile(filepath.Join(out, "sub/two")); err != nil || string(text) != "two\n" {
		t.Errorf("-o has %q, %v", text, err)
	}
	child := buildContext(t, map[string]string{"Dockerfile": "FROM made\n"})
	w.build(t, "-t", "child", child)
	w.later(t, "image", "rm", "child")
	expect(t, "ONBUILD", w.Try(t.Context(), "run", "--rm", "child", "cat", "/onbuild"), 0, "onbuild\n")
}

// buildMounts uses each type of RUN --mount.
func buildMounts(t *testing.T, w *world, kind api.Kind) {
	w.later(t, "builder", "prune", "-f") // an ordinary user could not remove all of it by hand
	dir := buildContext(t, map[string]string{"in": "from the context\n", "token": "hidden", "Dockerfile": `FROM base AS tools
RUN echo tool >/tool && chmod 600 /tool
RUN mkdir /deep && echo deeper >/deep/tool && chown 33:33 /deep/tool && chmod 600 /deep/tool
FROM base
ARG N=1
RUN --mount=type=cache,target=/cache echo $N >>/cache/count && cat /cache/count >/counted
RUN --mount=type=cache,target=/seeded,from=tools,source=/deep echo $N >>/seeded/count && cat /seeded/tool /seeded/count >>/counted
RUN --mount=type=bind,target=/ctx cat /ctx/in >/read && ! touch /ctx/x
RUN --mount=type=bind,from=tools,target=/tools cat /tools/tool /tools/deep/tool >>/read && stat -c %u:%g /tools/tool /tools/deep/tool >>/read
RUN --mount=type=bind,from=tools,source=/deep,target=/deep cat /deep/tool >>/read
RUN --mount=type=tmpfs,target=/mem,size=4m cp /bin/true /mem && /mem/true && ! head -c 5000000 /dev/zero >/mem/x
RUN --mount=type=secret,id=token test "$(cat /run/secrets/token)" = hidden
RUN --mount=type=secret,id=token,uid=5,mode=0400,target=/t,env=TOKEN stat -c %u:%a /t >>/read && echo ${#TOKEN} >>/read
RUN ls -d /cache /ctx /tools /mem /run/secrets /t >/left 2>/dev/null || true
`})
	secret := "id=token,src=" + filepath.Join(dir, "token")
	w.build(t, in(kind, "-t", "made", "--secret", secret, dir)...)
	counted := "1\n"
	if kind == api.Container { // "build in VMs, apart" looks at what VMs leave in cache mounts
		w.build(t, in(kind, "-t", "made", "--secret", secret, "--build-arg", "N=2", dir)...)
		counted += "2\n"
	}
	w.later(t, "image", "rm", "made")
	expect(t, "mounts", w.Try(t.Context(), "run", "--rm", "made", "cat", "/counted", "/read", "/left"), 0,
		counted+"deeper\n"+counted+"from the context\ntool\ndeeper\n0:0\n33:33\ndeeper\n5:400\n6\n")
}

// buildCompressed has layers of each compression, which become images all the same.
func buildCompressed(t *testing.T, w *world, _ api.Kind) {
	for _, attributes := range []string{"", ",compression=gzip,compression-level=1", ",compression=estargz", ",compression=zstd", ",compression=uncompressed"} {
		dir := buildContext(t, map[string]string{"Dockerfile": "FROM base\nRUN echo '" + attributes + "' >/x && rm /bin/true && ln /x /y\n"})
		w.build(t, "-o", "type=image,name=made"+attributes, dir)
		expect(t, attributes, w.Try(t.Context(), "run", "--rm", "made", "sh", "-c", "cat /y && ! test -e /bin/true"), 0, attributes+"\n")
		w.Berth(t, "image", "rm", "made")
	}
}

// buildInputs takes Dockerfile and context from elsewhere.
func buildInputs(t *testing.T, w *world, _ api.Kind) {
	w.later(t, "image", "rm", "made")
	in := strings.NewReader("FROM base\nRUN echo stdin >/x\n")
	if r := w.TryInput(t.Context(), in, "build", "-q", "-t", "made", "-"); r.Exit != 0 || !strings.HasPrefix(r.Stdout, "sha256:") {
		t.Fatalf("from standard input: %s", r)
	}
	expect(t, "from standard input", w.Try(t.Context(), "run", "--rm", "made", "cat", "/x"), 0, "stdin\n")
	dir := buildContext(t, map[string]string{"other/My.dockerfile": "# syntax=docker/dockerfile:1\nFROM base\nCOPY x /\nCOPY --from=more y /\n", "ctx/x": "x", "more/y": "y"})
	w.build(t, "-t", "made", "-f", filepath.Join(dir, "other/My.dockerfile"), "--build-context", "more="+filepath.Join(dir, "more"), filepath.Join(dir, "ctx"))
	expect(t, "by -f and --build-context", w.Try(t.Context(), "run", "--rm", "made", "cat", "/x", "/y"), 0, "xy")
}

// buildNetwork has a network of its own, or none.
func buildNetwork(t *testing.T, w *world, kind api.Kind) {
	dir := buildContext(t, map[string]string{"Dockerfile": `FROM base
RUN ip -o addr show eth0 | grep -c 'inet ' && grep -c nameserver /etc/resolv.conf && grep extra /etc/hosts
RUN --network=none ! ip addr show eth0
`})
	w.build(t, in(kind, "--add-host", "extra:10.9.8.7", dir)...)
	none := buildContext(t, map[string]string{"Dockerfile": "FROM base\nRUN ! ip addr show eth0\n"})
	w.build(t, in(kind, "--network", "none", none)...)
	if kind == api.VM {
		refused(t, "the host's network", w.Try(t.Context(), "build", "--vm", "--network", "host", none), 125, "--network host", "--vm")
		return
	}
	host := buildContext(t, map[string]string{"Dockerfile": "FROM base\nRUN test $(readlink /proc/self/ns/net) = '" + testenv.Shell(t, w.Machine, "readlink /proc/self/ns/net") + "'\n"})
	w.build(t, "--network", "host", host)
}

// buildCache empties the cache: what was built stays, and is built anew.
func buildCache(t *testing.T, w *world, _ api.Kind) {
	dir := buildContext(t, map[string]string{"Dockerfile": "FROM base\nRUN head -c 3000000 /dev/urandom >/big\nRUN --mount=type=cache,target=/c date >/c/x\n"})
	w.build(t, "-t", "made", dir)
	w.later(t, "image", "rm", "made")
	if out := w.Berth(t, "builder", "prune", "-f"); !strings.Contains(out, "freed") || strings.Contains(out, "freed 0B") {
		t.Errorf("prune says %q", out)
	}
	expect(t, "the image", w.Try(t.Context(), "run", "--rm", "made", "sh", "-c", "wc -c </big"), 0, "3000000\n")
	if again := w.build(t, "-t", "made", dir); strings.Contains(again, "CACHED") {
		t.Errorf("there is a cache:\n%s", again)
	}
}

func buildRefused(t *testing.T, w *world, kind api.Kind) {
	fails := func(what, dockerfile string, words ...string) {
		t.Helper()
		dir := buildContext(t, map[string]string{"Dockerfile": dockerfile})
		r := w.Try(t.Context(), append([]string{"build", "-t", "made", "--progress", "plain"}, in(kind, dir)...)...)
		if r.Exit != 1 {
			t.Errorf("%s: %s", what, r)
		}
		wants(t, what, r.Stderr, words...)
	}
	fails("a syntax error", "FROM base\nRUNN true\n", ">>> RUNN true", "berth: build: Dockerfile:2:1: unknown instruction: RUNN")
	fails("a step that fails", "FROM base\nRUN echo why; exit 3\n", ">>> RUN echo why; exit 3", "exit code: 3", "why")
	fails("a program that is not there", "FROM base\nRUN [\"/nothing\"]\n", ">>> RUN [\"/nothing\"]")
	fails("rights over the host", "FROM base\nRUN --security=insecure true\n", "insecure")
	fails("a file that is not there", "FROM base\nCOPY nothing /\n", ">>> COPY nothing /", "not found")
	refused(t, "no context", w.Try(t.Context(), "build", "/nothing"), 125, "/nothing")
	refused(t, "no Dockerfile", w.Try(t.Context(), "build", testenv.Dir(t)), 125, "Dockerfile", "-f")
	refused(t, "no network", w.Try(t.Context(), "build", "--network", "web", testenv.Dir(t)), 125, "--network web")
	refused(t, "a layout as a context", w.Try(t.Context(), "build", "--build-context", "x=oci-layout:///tmp", buildContext(t, map[string]string{"Dockerfile": "FROM base\n"})), 125, "--build-context x", "docker-image://")
	refused(t, "no image was made", w.Try(t.Context(), "image", "inspect", "made"), 1, "made")
}

// buildOutputs gives results out in each form, takes results of steps from elsewhere,
// and makes the same image twice.
func buildOutputs(t *testing.T, w *world, _ api.Kind) {
	dir := buildContext(t, map[string]string{"file": "content\n", "Dockerfile": "FROM base\nCOPY file /file\nRUN cat /file >/copy\n"})
	out := testenv.Dir(t)
	for _, form := range []string{"oci", "docker"} {
		archive := filepath.Join(out, form+".tar")
		w.build(t, "-t", "made:"+form, "-o", "type="+form+",dest="+archive, dir)
		w.Berth(t, "image", "import", archive, "made:"+form)
		w.later(t, "image", "rm", "made:"+form)
		expect(t, form, w.Try(t.Context(), "run", "--rm", "made:"+form, "cat", "/copy"), 0, "content\n")
	}
	cache := filepath.Join(out, "cache")
	w.build(t, "--cache-to", "type=local,dest="+cache, "--cache-to", "inline", dir)
	w.Berth(t, "builder", "prune", "-f")
	if again := w.build(t, "--cache-from", "type=local,src="+cache, dir); strings.Count(again, "CACHED") != 2 {
		t.Errorf("no cache is taken from a directory:\n%s", again)
	}
	var digests []string
	for range 2 {
		digests = append(digests, w.Berth(t, "build", "-q", "--no-cache", "--build-arg", "SOURCE_DATE_EPOCH=1000000000", "-o", "type=image,name=made:epoch,rewrite-timestamp=true", dir),
			w.Berth(t, "image", "inspect", "--format", "{{.Digest}}", "made:epoch"))
	}
	w.later(t, "image", "rm", "made:epoch")
	if digests[1] != digests[3] {
		t.Errorf("two builds of one time make %q", digests)
	}
	w.build(t, "-t", "made:provenance", "--provenance", "--label", "a=b", dir)
	w.later(t, "image", "rm", "made:provenance")
	expect(t, "with provenance", w.Try(t.Context(), "run", "--rm", "made:provenance", "cat", "/copy"), 0, "content\n")
}

// buildsSideBySide builds three images at a time that share a cache mount, while garbage
// is collected.
func buildsSideBySide(t *testing.T, w *world, _ api.Kind) {
	dir := buildContext(t, map[string]string{"Dockerfile": `FROM base
ARG N
RUN echo same >/same
RUN --mount=type=cache,target=/c,sharing=locked test ! -e /c/busy && touch /c/busy && sleep 0.2 && echo $N >>/c/all && rm /c/busy
RUN echo $N >/n
`})
	results := make(chan testenv.Result)
	names := []string{"one", "two", "three"}
	for _, name := range names {
		go func() {
			results <- w.Try(t.Context(), "build", "--progress", "plain", "-t", "made:"+name, "--build-arg", "N="+name, dir)
		}()
	}
	for left := len(names); left > 0; {
		select {
		case r := <-results:
			if r.Exit != 0 || r.Err != nil {
				t.Errorf("build: %s", r)
			}
			left--
		default:
			w.Berth(t, "system", "prune", "-f")
		}
	}
	for _, name := range names {
		w.later(t, "image", "rm", "made:"+name)
		expect(t, name, w.Try(t.Context(), "run", "--rm", "made:"+name, "cat", "/same", "/n"), 0, "same\n"+name+"\n")
	}
}

// builderKilled kills the builder in the middle of a step: the build fails, nothing of it
// is left, and the next build has a builder again.
func builderKilled(t *testing.T, w *world, kind api.Kind) {
	_, done, pid := startSleeper(t, w, kind)
	for _, builder := range w.PIDs(t, "berth-builder") {
		testenv.Shell(t, w.Machine, "kill -9 "+builder+" || true") // the shell that looks is found, too
	}
	if r := <-done; r.Exit != 1 || strings.Contains(strings.TrimSpace(r.Stderr), "panic") {
		t.Errorf("the build ended with %s", r)
	}
	testenv.Eventually(t, time.Minute, func() error { return w.noProcess(t, pid) })
	dir := buildContext(t, map[string]string{"Dockerfile": "FROM base\nRUN echo first >/first\n"})
	wants(t, "what was made before is kept", w.build(t, in(kind, dir)...), "CACHED")
}

// sleeper is a Dockerfile whose second step goes on until it is ended.
const sleeper = "FROM base\nRUN echo first >/first\nRUN exec sleep 987654\n"

// startSleeper begins a build and returns once its endless step runs, with the pid of that
// or of its VM.
func startSleeper(t *testing.T, w *world, kind api.Kind) (cancel func(), done <-chan testenv.Result, pid string) {
	t.Helper()
	if kind == api.VM { // the first step's VM is not to be taken for the second's
		w.build(t, "--vm", buildContext(t, map[string]string{"Dockerfile": "FROM base\nRUN echo first >/first\n"}))
	}
	return startStep(t, w, kind, sleeper)
}

// startStep begins a build and returns once its step runs that goes on until it is ended.
func startStep(t *testing.T, w *world, kind api.Kind, dockerfile string, args ...string) (cancel func(), done <-chan testenv.Result, pid string) {
	t.Helper()
	dir := buildContext(t, map[string]string{"Dockerfile": dockerfile})
	look := "pgrep -xf 'sleep 987654'"
	if kind == api.VM {
		look = "pgrep -f '^[^ ]*qemu-system.*berth-build [s]tep'"
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan testenv.Result, 1)
	go func() {
		ended <- w.Try(ctx, append([]string{"build", "-t", "made"}, in(kind, append(args, dir)...)...)...)
	}()
	testenv.Eventually(t, time.Minute, func() error {
		if pid = testenv.Shell(t, w.Machine, look+" || true"); pid == "" {
			return errors.New("the step does not run")
		}
		return nil
	})
	return cancel, ended, pid
}

// buildInterrupted ends a build in the middle of a step.
func buildInterrupted(t *testing.T, w *world, kind api.Kind) {
	cancel, done, pid := startSleeper(t, w, kind)
	cancel()
	<-done
	testenv.Eventually(t, time.Minute, func() error { return w.noProcess(t, pid) })
	refused(t, "no image was made", w.Try(t.Context(), "image", "inspect", "made"), 1, "made")
	dir := buildContext(t, map[string]string{"Dockerfile": "FROM base\nRUN echo first >/first\n"})
	wants(t, "what was made before is kept", w.build(t, in(kind, dir)...), "CACHED")
}

// buildKilled kills berthd in the middle of a step: nothing of it is left, and the next
// berthd builds on what was made.
func buildKilled(t *testing.T, w *world, kind api.Kind) {
	_, done, pid := startSleeper(t, w, kind)
	w.Kill(t)
	if r := <-done; r.Exit == 0 {
		t.Errorf("the build lived longer than berthd: %s", r)
	}
	w.Start(t)
	testenv.Eventually(t, time.Minute, func() error { return w.noProcess(t, pid) })
	dir := buildContext(t, map[string]string{"Dockerfile": "FROM base\nRUN echo first >/first\nRUN cat /first\n"})
	w.build(t, in(kind, "-t", "made", dir)...)
	w.later(t, "image", "rm", "made")
	expect(t, "run", w.Try(t.Context(), "run", "--rm", "made", "cat", "/first"), 0, "first\n")
}
