package oci_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthcloud/berth/internal/oci/landlock"
)

// domain has the box's workload run in a Landlock domain.
func (b *box) domain(profile string) {
	b.spec.Annotations = map[string]string{landlock.Annotation: profile}
}

// needLandlock skips where the kernel lacks what the test needs.
func needLandlock(t *testing.T, version int) {
	t.Helper()
	if has, err := landlock.Version(); err != nil || has < version {
		t.Skipf("the kernel has version %d of Landlock: %v", has, err)
	}
}

// onlyData lets the workload write below /data and to /log alone.
const onlyData = `{"handledAccessFS": ["write_file", "make_reg", "remove_file"],
	"pathBeneath": [{"allowedAccess": ["write_file", "make_reg", "remove_file"], "paths": ["/data", "/dev/null", "/log"]}]}`

// TestLandlock writes where the domain allows it, and elsewhere: as root, as a user, in
// a user namespace, below the reaping init, and in a further command.
func TestLandlock(t *testing.T) {
	needLandlock(t, 1)
	const script = "echo yes >/data/new && rm /data/new && echo yes >/log && echo yes >/dev/null && cat /log; for f in /tmp/new /etc/passwd; do echo no 2>&1 >$f; done; rm /etc/group"
	const want = "yes\nsh: can't create /tmp/new: Permission denied\nsh: can't create /etc/passwd: Permission denied\n"
	for name, change := range map[string]func(*testing.T, *box){
		"root":  func(*testing.T, *box) {},
		"plain": func(_ *testing.T, b *box) { b.spec.Process.NoNewPrivileges = false },
		"user": func(t *testing.T, b *box) {
			b.spec.Process.User = specs.User{UID: 1000, GID: 1001}
			b.spec.Process.NoNewPrivileges = false
			for _, f := range []string{"data", "log", "tmp", "etc", "etc/passwd", "etc/group"} {
				must(t, os.Chown(filepath.Join(b.rootfs(), f), 1000, 1001))
			}
		},
		"user namespace": func(_ *testing.T, b *box) { b.userNamespace() },
		"reaped":         func(_ *testing.T, b *box) { b.spec.Annotations["cloud.berth.init"] = "reap" },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "{ "+script+"; } 2>&1")
			b.spec.Root.Readonly = false
			must(t, os.Mkdir(filepath.Join(b.rootfs(), "data"), 0o755))
			must(t, os.WriteFile(filepath.Join(b.rootfs(), "log"), nil, 0o644))
			b.domain(onlyData)
			change(t, b)
			if out := b.run(); !strings.HasPrefix(out.stdout, want) || !strings.Contains(out.stdout, "rm: can't remove '/etc/group': Permission denied") {
				t.Errorf("%+v", out)
			}
			b.nothing()
		})
	}
	t.Run("exec", func(t *testing.T) {
		b := newBox(t, "sleep 600")
		b.spec.Root.Readonly = false
		must(t, os.Mkdir(filepath.Join(b.rootfs(), "data"), 0o755))
		must(t, os.WriteFile(filepath.Join(b.rootfs(), "log"), nil, 0o644))
		b.domain(onlyData)
		b.start()
		if out := b.oci("exec", b.id, "sh", "-c", "{ "+script+"; } 2>&1"); !strings.HasPrefix(out.stdout, want) {
			t.Errorf("%+v", out)
		}
		if out := b.oci("checkpoint", "--image-path", t.TempDir(), b.id); out.code == 0 || !strings.Contains(out.stderr, "Landlock domain") {
			t.Errorf("checkpoint: %+v", out)
		}
	})
}

// TestLandlockNetwork binds to an allowed port and to another.
func TestLandlockNetwork(t *testing.T) {
	needLandlock(t, 4)
	b := newBox(t, "for p in 80 81; do busybox timeout 1 busybox nc -l -p $p 2>&1 </dev/null; done")
	b.domain(`{"handledAccessNet": ["bind_tcp"], "netPort": [{"allowedAccess": ["bind_tcp"], "ports": [80]}]}`)
	if out := b.run(); out.stdout != "Terminated\nnc: bind: Permission denied\n" {
		t.Errorf("%+v", out)
	}
	b.nothing()
}

// TestLandlockRefuses creates nothing where the domain cannot be made.
func TestLandlockRefuses(t *testing.T) {
	needLandlock(t, 1)
	for profile, reason := range map[string]string{
		`{"handledAccessFS": ["exec"]}`: `annotations["cloud.berth.landlock"]: handledAccessFS: "exec" is unknown`,
		`{"handledAccessFS": ["execute"], "pathBeneath": [{"allowedAccess": ["execute"], "paths": ["/none"]}]}`:             "cloud.berth.landlock: /none: no such file or directory",
		`{"handledAccessFS": ["make_dir"], "pathBeneath": [{"allowedAccess": ["make_dir"], "paths": ["/etc/passwd"]}]}`:     "/etc/passwd: is no directory",
		`{"handledAccessFS": ["execute"], "pathBeneath": [{"allowedAccess": ["execute"], "paths": ["/etc"]}]}`:              "process.args[0]: /bin/sh: permission denied; the Landlock domain has to allow execute",
		`{"handledAccessFS": ["make_dir"], "pathBeneath": [{"allowedAccess": ["make_dir"], "paths": ["/etc/passwd/sub"]}]}`: "/etc/passwd/sub: is no directory",
	} {
		b := newBox(t, "echo ran")
		b.domain(profile)
		if out := b.run(); out.code == 0 || !strings.Contains(out.stderr, reason) || strings.Count(out.stderr, "\n") != 1 {
			t.Errorf("%s: %+v; want %q", profile, out, reason)
		}
		b.nothing()
	}
}
