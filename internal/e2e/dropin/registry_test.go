package dropin

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/berthcloud/berth/internal/testenv"
)

// registryAddr is berthd's registry in the engine's network namespace.
const registryAddr = "127.0.0.1:5000"

// TestRegistry has docker, podman and skopeo push to Berth's registry and pull from it,
// as users with rights; what they push, Berth runs.
func TestRegistry(t *testing.T) {
	e := newDocker(t, "true")
	for _, p := range []string{"podman", "skopeo"} {
		if _, err := os.Stat("/usr/bin/" + p); err != nil {
			t.Skipf("%s is not installed; make packages installs it", p)
		}
	}
	berth := e.registry()
	must(t, os.WriteFile(filepath.Join(e.dir, "auth.json"), []byte("{}"), 0o600))
	b := &clients{engine: e, berth: berth}
	t.Run("Docker", func(t *testing.T) { b.in(t).docker() })
	t.Run("Podman", func(t *testing.T) { b.in(t).podman() })
	t.Run("Skopeo", func(t *testing.T) { b.in(t).skopeo() })
	t.Run("Run", func(t *testing.T) { b.in(t).run() })
	t.Run("Compressed", func(t *testing.T) { b.in(t).compressed() })
}

// registry starts a berthd with a registry and two users, and returns the beginning of a
// command line to it.
func (e *engine) registry() []string {
	e.t.Helper()
	users := ""
	for _, name := range []string{"ci", "guest"} {
		hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
		must(e.t, err)
		users += fmt.Sprintf("%s:%s\n", name, hash)
	}
	usersFile, rightsFile := filepath.Join(e.dir, "users"), filepath.Join(e.dir, "rights")
	must(e.t, os.WriteFile(usersFile, []byte(users), 0o600))
	must(e.t, os.WriteFile(rightsFile, []byte("ci localhost/* pull,push,delete\nguest localhost/team/* pull\nanyone localhost/public/* pull\n"), 0o600))
	// Paths of sockets are short.
	run := filepath.Join("/run", testenv.Name(e.t))
	programs := testenv.Programs(e.t)
	cli := []string{filepath.Join(programs, "berth"), "--host", "unix://" + run + "/berthd.sock"}
	daemon := e.command(context.WithoutCancel(e.t.Context()), filepath.Join(programs, "berthd"), "--root", filepath.Join(e.dir, "berth"), "--run", run, "--log-level", "debug",
		"--vm-templates", "0", "--registry", registryAddr, "--registry-users", usersFile, "--registry-rights", rightsFile)
	log, err := os.Create(filepath.Join(e.dir, "berthd.log"))
	must(e.t, err)
	daemon.Stdout, daemon.Stderr = log, log
	daemon.Env = append(os.Environ(), "DOCKER_CONFIG="+filepath.Join(e.dir, "config")) // as the clients have
	must(e.t, daemon.Start())
	e.t.Cleanup(func() {
		_ = daemon.Process.Signal(syscall.SIGTERM)
		_ = daemon.Wait()
		log.Close()
		if e.t.Failed() {
			text, _ := os.ReadFile(log.Name())
			e.t.Logf("berthd:\n%s", text)
		}
	})
	testenv.Eventually(e.t, patience, func() error {
		if out, err := e.command(e.t.Context(), append(cli, "info")...).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	return cli
}

// clients are those of the registry.
type clients struct {
	*engine
	berth []string
}

func (b *clients) in(t *testing.T) *clients { return &clients{engine: b.engine.in(t), berth: b.berth} }

// as is a command of a user with credentials of his own.
func (b *clients) as(argv []string) *exec.Cmd {
	cmd := b.command(b.t.Context(), argv...)
	cmd.Env = append(os.Environ(), "HOME="+b.dir, "DOCKER_CONFIG="+filepath.Join(b.dir, "config"), "REGISTRY_AUTH_FILE="+filepath.Join(b.dir, "auth.json"))
	return cmd
}

// ok runs a command that is to succeed, and returns its output.
func (b *clients) ok(argv ...string) string {
	b.t.Helper()
	out, err := b.as(argv).CombinedOutput()
	if err != nil {
		b.t.Fatalf("%q: %v\n%s", argv, err, out)
	}
	return string(out)
}

// refused runs a command that is to fail, and to say why.
func (b *clients) refused(want string, argv ...string) {
	b.t.Helper()
	if out, err := b.as(argv).CombinedOutput(); err == nil || !strings.Contains(strings.ToLower(string(out)), want) {
		b.t.Errorf("%q: %v, want %q:\n%s", argv, err, want, out)
	}
}

func (b *clients) docker() {
	do := func(args ...string) []string { return append(append([]string{}, b.cli...), args...) }
	image := registryAddr + "/team/docker:1"
	b.ok(do("tag", "base", image)...)
	b.refused("unauthorized", do("push", image)...)
	b.ok(do("login", "--username", "ci", "--password", "secret", registryAddr)...)
	b.ok(do("push", image)...)
	b.ok(do("tag", "base", registryAddr+"/public/docker:1")...)
	if out := b.ok(do("push", registryAddr+"/public/docker:1")...); !strings.Contains(out, "Mounted from team/docker") {
		b.t.Errorf("docker did not mount the layer: %s", out)
	}
	b.ok(do("logout", registryAddr)...)
	b.ok(do("rmi", image, registryAddr+"/public/docker:1")...)
	b.ok(do("pull", registryAddr+"/public/docker:1")...) // as anyone
	b.refused("unauthorized", do("pull", image)...)
	b.ok(do("login", "--username", "guest", "--password", "secret", registryAddr)...)
	b.ok(do("pull", image)...)
	b.refused("denied", do("push", image)...)
	if out := b.ok(do("run", "--rm", "--network", "none", image, "echo", "hello")...); !strings.Contains(out, "hello") {
		b.t.Error(out)
	}
	b.ok(do("logout", registryAddr)...)
}

func (b *clients) podman() {
	store := filepath.Join(b.dir, "podman")
	do := func(args ...string) []string {
		return append([]string{"podman", "--root", filepath.Join(store, "root"), "--runroot", filepath.Join(store, "run"), "--tmpdir", filepath.Join(store, "tmp"), "--events-backend", "file"}, args...)
	}
	image := registryAddr + "/team/podman:1"
	b.ok(do("load", "--input", filepath.Join(b.dir, "base.tar"))...)
	b.refused("unauthorized", do("push", "--tls-verify=false", "base", image)...)
	b.ok(do("login", "--tls-verify=false", "--username", "ci", "--password", "secret", registryAddr)...)
	b.ok(do("push", "--tls-verify=false", "--compression-format", "zstd", "base", image)...)
	b.ok(do("pull", "--tls-verify=false", image)...)
	b.ok(do("rmi", "--all", "--force")...)
	b.ok(do("pull", "--tls-verify=false", image)...)
	b.ok(do("logout", registryAddr)...)
	b.refused("unauthorized", do("pull", "--tls-verify=false", image)...)
	b.ok(do("pull", "--tls-verify=false", registryAddr+"/public/docker:1")...)
}

func (b *clients) skopeo() {
	creds := func(verb string, args ...string) []string {
		return append([]string{"skopeo", verb, "--creds", "ci:secret", "--tls-verify=false"}, args...)
	}
	copyTo := func(from, to string, more ...string) []string {
		return append([]string{"skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false", "--src-creds", "ci:secret", "--dest-creds", "ci:secret"}, append(more, from, to)...)
	}
	image := "docker://" + registryAddr + "/team/skopeo:1"
	b.ok(copyTo("docker-archive:"+filepath.Join(b.dir, "base.tar"), image, "--format", "oci")...)
	b.ok(copyTo(image, "docker://"+registryAddr+"/team/skopeo:2")...)
	if out := b.ok(creds("list-tags", "docker://"+registryAddr+"/team/skopeo")...); !strings.Contains(out, "\"1\",\n        \"2\"") {
		b.t.Error(out)
	}
	b.ok(copyTo(image, "dir:"+filepath.Join(b.dir, "copied"))...)
	b.ok(creds("inspect", image)...)
	b.ok(creds("delete", image)...)
	b.refused("unknown", creds("inspect", image)...)
}

// run has Berth run what the others have pushed.
func (b *clients) run() {
	do := func(args ...string) []string { return append(append([]string{}, b.berth...), args...) }
	for _, name := range []string{"localhost/team/docker:1", "localhost/team/podman:1", "localhost/public/docker:1"} {
		if out := b.ok(do("run", "--rm", "--network", "none", name, "echo", "hello from "+name)...); !strings.Contains(out, "hello from "+name) {
			b.t.Error(out)
		}
	}
	// What Berth names so it serves, and it pushes to itself as to any other.
	b.ok(do("image", "tag", "localhost/team/docker:1", "localhost/team/made:1")...)
	docker := func(args ...string) []string { return append(append([]string{}, b.cli...), args...) }
	b.ok(docker("login", "--username", "ci", "--password", "secret", registryAddr)...)
	b.ok(docker("pull", registryAddr+"/team/made:1")...)
	b.ok(do("image", "tag", "localhost/team/docker:1", registryAddr+"/team/pushed:1")...)
	b.ok(do("push", registryAddr+"/team/pushed:1")...)
	b.ok(do("pull", registryAddr+"/public/docker:1")...)
}

// compressed has the others read what Berth compresses for a push. docker reads zstd since 23.
func (b *clients) compressed() {
	berth := func(args ...string) { b.ok(append(append([]string{}, b.berth...), args...)...) }
	docker := func(args ...string) []string { return append(append([]string{}, b.cli...), args...) }
	store := filepath.Join(b.dir, "podman")
	podman := []string{"podman", "--root", filepath.Join(store, "root"), "--runroot", filepath.Join(store, "run"), "--tmpdir", filepath.Join(store, "tmp"), "--events-backend", "file"}
	b.ok(docker("login", "--username", "ci", "--password", "secret", registryAddr)...)
	saved := filepath.Join(b.dir, "saved.tar")
	b.ok(docker("save", "--output", saved, "base")...)
	version := strings.TrimSpace(b.ok(docker("version", "--format", "{{.Server.Version}}")...))
	for format, flags := range map[string][]string{"gzip": nil, "zstd": {"--compression-format", "zstd"}} {
		image := registryAddr + "/team/" + format + ":1"
		berth("image", "import", saved, image)
		berth(append(append([]string{"push"}, flags...), image)...)
		inspected := b.ok("skopeo", "inspect", "--raw", "--creds", "ci:secret", "--tls-verify=false", "docker://"+image)
		if !strings.Contains(inspected, "tar+"+format) {
			b.t.Errorf("%s was pushed as %s", format, inspected)
		}
		b.ok("skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", "--src-creds", "ci:secret", "docker://"+image, "oci:"+filepath.Join(b.dir, "read-"+format))
		b.ok(append(podman, "rmi", "--all", "--force")...)
		b.ok(append(podman, "pull", "--creds", "ci:secret", "--tls-verify=false", image)...)
		if major, _, _ := strings.Cut(version, "."); format == "zstd" && len(major) == 2 && major < "23" {
			continue
		}
		b.ok(docker("pull", image)...)
		if out := b.ok(docker("run", "--rm", "--network", "none", image, "echo", "hello")...); !strings.Contains(out, "hello") {
			b.t.Error(out)
		}
	}
}
