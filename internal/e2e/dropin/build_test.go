package dropin

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	gocmpopts "github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/testenv"
)

// dockerfiles are built by Debian's docker and by Berth. The first show what each
// instruction does, the others are what people build.
var dockerfiles = map[string]string{
	"files": `FROM base
WORKDIR /srv/app
COPY --chown=5:6 tree/ ./tree/
COPY tree/one /copied/
ADD packed.tar /unpacked/
RUN echo made >made && chown 1000:1001 made && chmod 4751 made && ln made twice && ln -s made link
RUN busybox mkfifo pipe && mkdir -m 1777 sticky && mkdir -p a/b/c && echo x >a/b/c/x
RUN busybox mv a moved && busybox rm -r tree/sub && mkdir tree/sub && echo new >tree/sub/new
RUN busybox rm /etc/group && busybox rm -r /run && echo x >/tmp/x && busybox rm /tmp/x
`,
	"users": `FROM base
USER bob
WORKDIR /home/bob
RUN id >who && pwd >>who && echo $HOME >>who
COPY tree/one .
USER 7:8
RUN id >/tmp/other
ENV A=1 B="two words"
ARG C=three
RUN env | busybox grep -E "^[ABC]=" | busybox sort >/tmp/env; echo "$0 $-" >>/tmp/env
SHELL ["sh", "-ec"]
RUN false || echo after >>/tmp/env
`,
	"stages": `FROM base AS one
RUN echo one >/one && chown 3:4 /one && mkdir /deep && echo deep >/deep/file
FROM scratch AS two
COPY --from=one /one /deep /two/
FROM base
COPY --from=two /two /got
COPY --from=one --chown=9:9 /deep/file /got/deeper/
ONBUILD RUN echo later
VOLUME /data
RUN mkdir /data && echo kept >/data/kept
`,
	"config": `FROM base
LABEL one=1 "two words"="a b"
EXPOSE 80 53/udp
VOLUME ["/data", "/more"]
ENV PATH=/opt/bin:$PATH
STOPSIGNAL SIGQUIT
HEALTHCHECK --interval=5s --timeout=3s --start-period=2s --retries=4 CMD ["true"]
ONBUILD COPY . /later
ONBUILD RUN true
SHELL ["sh", "-ec"]
USER bob:1001
ENTRYPOINT ["sh", "-c"]
CMD echo $0
`,
	"mounts": `# syntax=docker/dockerfile:1
FROM base AS one
RUN echo one >/one && busybox chmod 600 /one
FROM base
# BuildKit of docker 20.10 leaves the mount points that it makes.
RUN mkdir -p /mnt/one /mnt/tmp /mnt/tree /run/secrets /var/cache/x
RUN --mount=type=cache,target=/var/cache/x echo c >/var/cache/x/c
RUN --mount=type=bind,from=one,target=/mnt/one cat /mnt/one/one >/read
RUN --mount=type=tmpfs,target=/mnt/tmp echo x >/mnt/tmp/x
RUN --mount=type=bind,source=tree,target=/mnt/tree,rw echo x >/mnt/tree/x && ls /mnt/tree >>/read
RUN --mount=type=secret,id=s cat /run/secrets/s >>/read
`,
	"go": `FROM tools AS build
WORKDIR /src
ARG GOPROXY
ENV GOFLAGS=-mod=mod GOSUMDB=off CGO_ENABLED=0
COPY go/go.mod ./
RUN --mount=type=cache,target=/root/go --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt go mod download
COPY go/ ./
RUN --mount=type=cache,target=/root/go --mount=type=cache,target=/root/.cache --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
	go build -buildvcs=false -o /out/hello .
FROM scratch
COPY --from=build /out/ /bin/
COPY --from=build /src/go.sum /
USER 65534:65534
EXPOSE 8080
ENTRYPOINT ["/bin/hello"]
`,
	"node": `FROM tools AS build
WORKDIR /srv
ARG NPM_CONFIG_REGISTRY
ENV NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt
COPY node/package.json ./
RUN --mount=type=cache,target=/root/.npm --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt npm install --omit=dev --no-audit --no-fund
COPY node/ ./
RUN node main.js >out && test "$(cat out)" = "two days are 172800000"
FROM debian
COPY --from=build --chown=33:33 /srv /srv
WORKDIR /srv
USER www-data
CMD ["node", "main.js"]
`,
	"python": `FROM tools AS build
ENV PYTHONDONTWRITEBYTECODE=1
COPY python/ /src/
RUN pip install --no-index --no-build-isolation --no-compile --target /app /src
RUN test "$(PYTHONPATH=/app /app/bin/hello)" = hello
FROM debian
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH PYTHONPATH=/app
CMD ["hello"]
`,
	"debian": `FROM debian
# BuildKit of docker 20.10 leaves the mount point that it makes.
RUN mkdir -p /run/secrets && touch /run/secrets/sources
RUN --mount=type=secret,id=sources apt-get -o Dir::Etc::SourceList=/run/secrets/sources -o Dir::Etc::SourceParts=- update \
	&& DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends attr cron iputils-ping libcap2-bin \
	&& rm -rf /var/lib/apt/lists/* /var/log/* /var/cache/*
RUN rm -r /run/secrets && getcap /bin/ping | grep cap_net_raw
RUN useradd --create-home --uid 1234 someone && cp /bin/cat /home/someone && setcap cap_net_bind_service+ep /home/someone/cat \
	&& setfattr -n user.color -v blue /home/someone && touch /home/someone/file && setfattr -n user.shape -v round /home/someone/file
RUN mv /home/someone/file /home/someone/moved && chmod 6755 /usr/bin/crontab && ln /usr/bin/crontab /usr/bin/again && rm -rf /usr/share/doc
USER someone
WORKDIR /home/someone
ENTRYPOINT ["/bin/ping"]
CMD ["-c", "1", "127.0.0.1"]
`,
}

// excused are the paths in which a builder's tree may differ from Berth's, and why.
var excused = map[string]map[string]string{
	"BuildKit": {},
	"classic": {
		"/unpacked/d/noted": "it unpacks no user.* attributes",
		"/unpacked/d/again": "the same file",
	},
}

// classic are the Dockerfiles that docker's classic builder builds as well. It knows no
// RUN --mount, makes the directory of a VOLUME, and gives that of a WORKDIR to root.
var classic = []string{"config", "files"}

// TestBuildsAreDockers builds Dockerfiles by Debian's docker, with its own BuildKit and
// runc, by its classic builder where that does the same, and by Berth. What a
// container sees is equal, to the last extended attribute, and so are the images' configs.
func TestBuildsAreDockers(t *testing.T) {
	e := newDocker(t, "true", "--bridge=none", "--iptables=false", "--ip6tables=false")
	e.env = append(e.env, "BUILDKIT_PROGRESS=plain")
	w := testenv.NewDaemon(t, testenv.Here(t))
	for name, packages := range map[string][]string{"debian": {"passwd"}, "tools": tools} {
		root := testenv.DebianArchive(t, packages...)
		e.want(0, "", "import", root, name)
		w.Berth(t, "image", "import", root, name)
	}
	base := filepath.Join(e.dir, "saved.tar")
	e.want(0, "", "save", "--output", base, "base")
	w.Berth(t, "image", "import", base)
	args := buildArgs(t, e)
	program, err := os.Executable()
	must(t, err)
	mounted := []string{"run", "--rm", "--user", "0", "--workdir", "/", "--entrypoint", lister, "--volume", program + ":" + lister + ":ro"}
	for _, name := range slices.Sorted(maps.Keys(dockerfiles)) {
		t.Run(name, func(t *testing.T) {
			e := e.in(t)
			start, image := time.Now(), "made-"+name
			file := filepath.Join(e.dir, name+".Dockerfile")
			args := append(slices.Clone(args), "--network", "host", "--file", file)
			must(t, os.WriteFile(file, []byte(dockerfiles[name]), 0o644))
			w.Berth(t, append([]string{"build", "--tag", image}, args...)...)
			ours := tree(w.Berth(t, append(slices.Clone(mounted), "--network", "none", image)...), start)
			saved := filepath.Join(e.dir, name+".tar")
			w.Berth(t, "image", "save", "--output", saved, image)
			config, history := readConfig(t, saved)
			// Docker would fetch its frontend.
			must(t, os.WriteFile(file, []byte(strings.TrimPrefix(dockerfiles[name], "# syntax=docker/dockerfile:1\n")), 0o644))
			for _, builder := range []string{"BuildKit", "classic"} {
				args := args
				if builder == "classic" {
					if !slices.Contains(classic, name) {
						continue
					}
					args = slices.DeleteFunc(slices.Clone(args), func(a string) bool { return a == "--secret" || strings.HasPrefix(a, "id=") })
				}
				e.env = append(e.env, "DOCKER_BUILDKIT="+map[string]string{"BuildKit": "1", "classic": "0"}[builder])
				e.want(0, "", append([]string{"build", "--tag", image}, args...)...)
				theirs := tree(e.want(0, "", append(slices.Clone(mounted), image)...), start)
				same := gocmpopts.IgnoreMapEntries(func(path, _ string) bool { return excused[builder][path] != "" })
				if diff := gocmp.Diff(theirs, ours, same); diff != "" {
					t.Errorf("%s's tree (-), ours (+), of %d:\n%s", builder, len(ours), diff)
				}
				e.want(0, "", "save", "--output", saved, image)
				itsConfig, itsHistory := readConfig(t, saved)
				if diff := gocmp.Diff(itsConfig, config); diff != "" {
					t.Errorf("%s's config (-), ours (+):\n%s", builder, diff)
				}
				if diff := gocmp.Diff(itsHistory, history); diff != "" && builder == "BuildKit" {
					t.Errorf("%s's history (-), ours (+):\n%s", builder, diff)
				}
			}
			t.Logf("%d files are equal", len(ours))
		})
	}
	e.nothing()
}

// tools are the packages of what "go", "node" and "python" are built with.
var tools = []string{"ca-certificates", "golang-go", "npm", "python3-pip", "python3-setuptools", "python3-venv", "python3-wheel"}

// tree reads what the lister has written, as lines by path. Times since start are of no
// significance.
func tree(text string, start time.Time) map[string]string {
	lines := map[string]string{}
	for line := range strings.Lines(text) {
		name, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		at := strings.LastIndexByte(rest, ' ') + 1
		if seconds, err := strconv.ParseInt(rest[at:], 10, 64); err == nil && seconds >= start.Unix() {
			rest = rest[:at] + "new"
		}
		lines[name] = rest
	}
	return lines
}

// readConfig returns the config of the image in an archive of docker's form, without what
// is empty, and the instructions of its history.
func readConfig(t *testing.T, path string) (config map[string]any, history []string) {
	t.Helper()
	files := map[string][]byte{}
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		if h.Size < 1<<20 {
			files[h.Name], err = io.ReadAll(r)
			must(t, err)
		}
	}
	var manifest []struct{ Config string }
	must(t, json.Unmarshal(files["manifest.json"], &manifest))
	var image struct {
		Architecture, OS string
		Config           map[string]any
		History          []struct {
			CreatedBy  string `json:"created_by"`
			EmptyLayer bool   `json:"empty_layer"`
		}
	}
	must(t, json.Unmarshal(files[manifest[0].Config], &image))
	config = map[string]any{"platform": image.OS + "/" + image.Architecture}
	for _, name := range []string{
		"Env", "Cmd", "Entrypoint", "ExposedPorts", "Volumes", "User", "WorkingDir", "Labels", "Healthcheck", "OnBuild", "Shell", "StopSignal",
	} {
		switch value := image.Config[name].(type) {
		case nil:
		case string:
			if value != "" {
				config[name] = value
			}
		case map[string]any:
			if len(value) > 0 {
				config[name] = value
			}
		default:
			config[name] = value
		}
	}
	for _, h := range image.History {
		// What follows is written by each in its own way, and what made the base is no instruction.
		if by, _, _ := strings.Cut(h.CreatedBy, " "); by != "" && by == strings.ToUpper(by) {
			history = append(history, by+" empty="+strconv.FormatBool(h.EmptyLayer))
		}
	}
	return config, history
}

// buildArgs makes the context of dockerfiles, and returns what a build of any is told:
// how this machine reaches package registries, and nothing that an image keeps.
func buildArgs(t *testing.T, e *engine) []string {
	dir := filepath.Join(e.dir, "context")
	must(t, os.MkdirAll(filepath.Join(dir, "tree/sub/empty"), 0o750))
	for name, text := range map[string]string{
		"go/go.mod":             "module example.com/hello\n\ngo 1.19\n\nrequire rsc.io/quote v1.5.2\n",
		"go/main.go":            "package main\n\nimport \"rsc.io/quote\"\n\nfunc main() { println(quote.Go()) }\n",
		"node/package.json":     `{"name": "hello", "version": "1.0.0", "dependencies": {"ms": "2.1.3", "chalk": "4.1.2"}}`,
		"node/main.js":          "require('chalk'); console.log('two days are ' + require('ms')('2 days'))\n",
		"python/pyproject.toml": "[build-system]\nrequires = [\"setuptools\"]\nbuild-backend = \"setuptools.build_meta\"\n\n[project]\nname = \"hello\"\nversion = \"1.0\"\nscripts = {hello = \"hello:main\"}\n\n[tool.setuptools]\npy-modules = [\"hello\"]\n",
		"python/hello.py":       "def main():\n    print('hello')\n",
		".dockerignore":         "*.Dockerfile\n",
	} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	must(t, os.WriteFile(filepath.Join(dir, "tree/one"), []byte("one\n"), 0o640))
	must(t, os.WriteFile(filepath.Join(dir, "tree/sub/two"), []byte("two\n"), 0o755))
	must(t, os.Symlink("one", filepath.Join(dir, "tree/link")))
	must(t, unix.Setxattr(filepath.Join(dir, "tree/sub/two"), "user.color", []byte("blue"), 0))
	must(t, os.WriteFile(filepath.Join(dir, "packed.tar"), packed(t), 0o644))
	old := time.Date(2020, 2, 3, 4, 5, 6, 700, time.UTC)
	must(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err == nil {
			ts := unix.NsecToTimespec(old.UnixNano())
			err = unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
		}
		return err
	}))
	sources := filepath.Join(e.dir, "sources")
	must(t, os.WriteFile(sources, []byte(testenv.DebianSources(t)), 0o644))
	configured := func(argv ...string) string {
		out, _ := exec.CommandContext(t.Context(), argv[0], argv[1:]...).Output() // what is not installed is not configured
		return strings.TrimSpace(string(out))
	}
	args := []string{"--secret", "id=s,src=" + filepath.Join(dir, "tree/one"), "--secret", "id=sources,src=" + sources, "--secret", "id=ca,src=/etc/ssl/certs/ca-certificates.crt"}
	for name, value := range map[string]string{"GOPROXY": configured("go", "env", "GOPROXY"), "NPM_CONFIG_REGISTRY": configured("npm", "config", "get", "registry")} {
		if value != "" {
			args = append(args, "--build-arg", name+"="+value)
		}
	}
	return append(args, dir)
}

// packed is an archive for ADD: the base's files, and such as only archives have.
func packed(t *testing.T) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	when := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o2755, Uid: 7, Gid: 8},
		{Typeflag: tar.TypeChar, Name: "d/null", Mode: 0o666, Devmajor: 1, Devminor: 3},
		{Typeflag: tar.TypeFifo, Name: "d/pipe", Mode: 0o600},
		{Typeflag: tar.TypeReg, Name: "d/noted", Mode: 0o4711, Uid: 9, PAXRecords: map[string]string{
			"SCHILY.xattr.user.note": "n", "SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00" + strings.Repeat("\x00", 12),
		}},
		{Typeflag: tar.TypeLink, Name: "d/again", Linkname: "d/noted", Mode: 0o4711, Uid: 9},
		{Typeflag: tar.TypeSymlink, Name: "d/up", Linkname: "../../etc/passwd", Mode: 0o777},
	} {
		h.ModTime = when
		must(t, w.WriteHeader(&h))
	}
	must(t, w.Close())
	return out.Bytes()
}
