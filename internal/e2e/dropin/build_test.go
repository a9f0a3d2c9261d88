package dropin

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcloud/berth/internal/testenv"
)

// dockerfiles are built by Debian's docker and by Berth.
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
}

// listing shows all of a root filesystem that a layer carries.
const listing = `cd /; b=busybox
$b find . -xdev \( -path ./proc -o -path ./sys -o -path ./dev -o -path ./etc/hosts -o -path ./etc/hostname -o -path ./etc/resolv.conf \) -prune -o -print | $b sort | while read -r f; do
	$b stat -c '%n %a %u:%g %F' "$f"
	if [ -L "$f" ]; then $b readlink "$f"; elif [ -f "$f" ]; then $b stat -c %h "$f"; $b sha256sum <"$f"; fi
	case $f in ./copied/*|./srv/app/tree/one) $b stat -c %Y "$f";; esac
done; true`

// TestBuildsAreDockers builds Dockerfiles by Debian's docker, with its own BuildKit and
// runc, and by Berth: the root filesystems are equal in paths, kinds, modes, owners, links and contents,
// and what is copied from the context in its times too.
func TestBuildsAreDockers(t *testing.T) {
	e := newDocker(t, "true")
	e.env = append(e.env, "DOCKER_BUILDKIT=1", "BUILDKIT_PROGRESS=plain")
	w := testenv.NewDaemon(t, testenv.Here(t))
	base := filepath.Join(e.dir, "saved.tar")
	e.want(0, "", "save", "--output", base, "base")
	w.Berth(t, "image", "import", base)
	context := buildContext(t, e)
	for name, text := range dockerfiles {
		t.Run(name, func(t *testing.T) {
			e := e.in(t)
			file := filepath.Join(e.dir, name+".Dockerfile")
			// Docker would fetch its frontend.
			must(t, os.WriteFile(file, []byte(strings.TrimPrefix(text, "# syntax=docker/dockerfile:1\n")), 0o644))
			secret := "id=s,src=" + filepath.Join(context, "tree/one")
			e.want(0, "", "build", "--tag", name+":docker", "--secret", secret, "--file", file, context)
			saved := filepath.Join(e.dir, name+".tar")
			e.want(0, "", "save", "--output", saved, name+":docker")
			w.Berth(t, "image", "import", saved)
			must(t, os.WriteFile(file, []byte(text), 0o644))
			w.Berth(t, "build", "--tag", name+":berth", "--secret", secret, "--file", file, context)
			list := func(image string) string {
				return w.Berth(t, "run", "--rm", "--user", "0", "--workdir", "/", "--entrypoint", "sh", image, "-c", listing)
			}
			theirs, ours := list(name+":docker"), list(name+":berth")
			if diff := cmp.Diff(strings.Split(theirs, "\n"), strings.Split(ours, "\n")); diff != "" {
				t.Errorf("docker's (-), ours (+):\n%s", diff)
			}
			config := func(image string) string {
				return w.Berth(t, "image", "inspect", "--format", "{{.Config.User}} {{.Config.WorkingDir}} {{.Config.Env}} {{.Config.Command}}", image)
			}
			if theirs, ours := config(name+":docker"), config(name+":berth"); theirs != ours {
				t.Errorf("docker's config: %s\nours: %s", theirs, ours)
			}
		})
	}
	e.nothing()
}

// buildContext makes the context of dockerfiles.
func buildContext(t *testing.T, e *engine) string {
	dir := filepath.Join(e.dir, "context")
	must(t, os.MkdirAll(filepath.Join(dir, "tree/sub/empty"), 0o750))
	must(t, os.WriteFile(filepath.Join(dir, "tree/one"), []byte("one\n"), 0o640))
	must(t, os.WriteFile(filepath.Join(dir, "tree/sub/two"), []byte("two\n"), 0o755))
	must(t, os.Symlink("one", filepath.Join(dir, "tree/link")))
	must(t, os.WriteFile(filepath.Join(dir, "packed.tar"), rootfs(t), 0o644))
	return dir
}
