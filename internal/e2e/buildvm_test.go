package e2e

import (
	"testing"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/testenv"
)

// vmBuildScenarios make images of Dockerfiles that are not trusted.
var vmBuildScenarios = []scenario{
	{"build in VMs", localOnly, vms, buildsInVMs},
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
