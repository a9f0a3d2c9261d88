package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/testenv"
)

// buildAttackScenarios are row 8 of the attack classes: what has led builders out of the
// roots of their steps.
var buildAttackScenarios = []scenario{
	{"build attacks", localOnly, nil, buildAttacks},
}

// secret is what no step may read.
const secret = "the-secret-of-the-host"

// buildAttack is a Dockerfile, in which VICTIM stands for a directory of the host that
// anybody may write to and that has a file, kept, and an empty directory, empty.
type buildAttack struct {
	name, dockerfile string
	refused          string // what the build says; "" where it may succeed
}

var buildAttackCases = []buildAttack{
	{"CVE-2024-9675: a cache by a path", "FROM base\nRUN --mount=type=cache,id=../../../../../../../../../..VICTIM,target=/c touch /c/pwned; cat /c/kept; true\n", ""},
	{"CVE-2024-9675: a cache by an absolute path", "FROM base\nRUN --mount=type=cache,id=VICTIM,target=/c touch /c/pwned; cat /c/kept; true\n", ""},
	{"CVE-2024-23651: a link in a cache", "FROM base\nRUN --mount=type=cache,id=race,target=/c ln -sfn VICTIM /c/link\n" +
		"RUN --mount=type=cache,id=race,source=link,target=/d touch /d/pwned; cat /d/kept; true\n", ""},
	{"CVE-2024-23651: a link in a mounted stage", "FROM base AS evil\nRUN ln -s VICTIM /link\nFROM base\n" +
		"RUN --mount=type=bind,from=evil,source=/link,target=/m,rw touch /m/pwned; cat /m/kept\n", "VICTIM"},
	{"CVE-2024-23652: a mount's directory becomes a link", "FROM base\nRUN --mount=type=tmpfs,target=/a/empty mv /a /b && ln -s VICTIM /a\nRUN true\n", ""},
	{"CVE-2024-23652: a mount's file becomes a link", "FROM base\nRUN --mount=type=bind,source=Dockerfile,target=/a/kept mv /a /b && ln -s VICTIM /a\nRUN true\n", ""},
	{"CVE-2024-23653: rights that nobody has granted", "FROM base\nRUN --security=insecure cat /proc/1/environ\n", "security.insecure"},
	{"CVE-2024-9407: an option of mount(8)", "FROM base\nRUN --mount=type=bind,source=.,target=/m,bind-propagation=shared true\n", "bind-propagation"},
	{"CVE-2024-11218: a link in the context", "FROM base\nRUN --mount=type=bind,source=link,target=/m touch /m/pwned; cat /m/kept\n", "not found"},
	{"a copy through a link of a stage", "FROM base AS evil\nRUN ln -s VICTIM /link\nFROM base\nCOPY --from=evil /link/kept /stolen\nRUN cat /stolen\n", "not found"},
	{"a copy through a link of the context", "FROM base\nCOPY link/kept /stolen\nRUN cat /stolen\n", "not found"},
	{"a copy to a link", "FROM base\nRUN ln -s VICTIM /out\nCOPY Dockerfile /out/pwned\nWORKDIR /out/made\nRUN true\n", ""},
	{"CVE-2024-21626: a working directory by a descriptor", "FROM base\nWORKDIR /proc/self/fd/8\nRUN cat ../../../../../../../..VICTIM/kept; touch ../../../../../../../..VICTIM/pwned; true\n", ""},
	{"a secret below a link", "FROM base\nRUN rm -rf /run && ln -s VICTIM /run\nRUN --mount=type=secret,id=none,target=/run/kept --mount=type=tmpfs,target=/run/new true\n", ""},
	{"an archive with a way out", "FROM base\nADD out.tar /\nRUN true\n", ""},
}

// buildAttacks carries them out, and looks at the victim afterwards.
func buildAttacks(t *testing.T, w *world, _ api.Kind) {
	victim := testenv.Dir(t)
	for _, err := range []error{
		os.Chmod(victim, 0o777), os.Mkdir(filepath.Join(victim, "empty"), 0o777), os.WriteFile(filepath.Join(victim, "kept"), []byte(secret+"\n"), 0o644),
		os.Chmod(filepath.Join(victim, "empty"), 0o777),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	look := func() string {
		return testenv.Shell(t, w.Machine, fmt.Sprintf("find %[1]s -printf '%%p %%y %%m %%s %%T@\\n' | sort; cat %[1]s/kept", victim))
	}
	before := look()
	for _, c := range buildAttackCases {
		t.Run(c.name, func(t *testing.T) {
			dir := buildContext(t, map[string]string{"Dockerfile": strings.ReplaceAll(c.dockerfile, "VICTIM", victim)})
			if err := os.Symlink(victim, filepath.Join(dir, "link")); err != nil {
				t.Fatal(err)
			}
			testenv.Shell(t, w.Machine, fmt.Sprintf("cd %s && : >pwned && tar -P -cf out.tar --transform 's,^,../../../../../../../../..%s/,' pwned && rm pwned", dir, victim))
			r := w.Try(t.Context(), "build", "--no-cache", "--progress", "plain", dir)
			if want := strings.ReplaceAll(c.refused, "VICTIM", victim); want != "" && (r.Exit == 0 || !strings.Contains(r.Stderr, want)) {
				t.Errorf("it is not refused with %q: %s", want, r)
			}
			if strings.Contains(r.Stdout+r.Stderr, secret) {
				t.Errorf("a step has read the host's file: %s", r)
			}
			if after := look(); after != before {
				t.Errorf("the host's directory was\n%s\nand is\n%s", before, after)
			}
		})
	}
	stepEnvironment(t, w)
}

// stepEnvironment is CVE-2021-3602: a step has variables of its own, and none of whoever
// runs the builder.
func stepEnvironment(t *testing.T, w *world) {
	dir := buildContext(t, map[string]string{"Dockerfile": "FROM base\nRUN env | cut -d = -f 1 | sort | tr '\\n' ' ' >/names\n"})
	w.build(t, "-t", "made", dir)
	w.later(t, "image", "rm", "made")
	for name := range strings.FieldsSeq(w.Berth(t, "run", "--rm", "--network", "none", "made", "cat", "/names")) {
		switch strings.ToUpper(name) {
		case "HOME", "HOSTNAME", "PATH", "PWD", "SHLVL", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "FTP_PROXY", "ALL_PROXY":
		default:
			t.Errorf("a step has the variable %s", name)
		}
	}
}
