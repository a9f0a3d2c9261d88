package container

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// finish runs a prepared container to its end and returns what it said.
func (w *world) finish(t *testing.T, p *instance.Prepared) (string, api.Exit) {
	t.Helper()
	run := w.begin(t, p)
	exit, err := run.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(p.LogPath)
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	for line := range strings.SplitSeq(strings.TrimSpace(string(log)), "\n") {
		if f := strings.SplitN(line, " ", 4); len(f) == 4 {
			said.WriteString(f[3] + "\n")
		}
	}
	return said.String(), exit
}

// begin starts a prepared container, which is deleted with the test.
func (w *world) begin(t *testing.T, p *instance.Prepared) instance.Handle {
	t.Helper()
	run, err := w.driver(t).Create(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := run.Delete(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if _, err := run.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return run
}

func shell(script string) instance.Process {
	return instance.Process{Args: []string{"sh", "-c", script}}
}

// TestConfined looks from inside at what every container is promised.
func TestConfined(t *testing.T) {
	w := newWorld(t)
	p := prepare(t, shell("exec 2>&1; "+strings.Join([]string{
		"grep -E '^(CapInh|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status", "head -n1 /proc/self/uid_map",
		"echo x > /proc/sys/kernel/core_pattern", "cat /proc/kcore | head -c 1 | wc -c", "echo x > /sys/kernel/uevent_helper",
		"cat /etc/hostname", "cat /sys/class/net/lo/operstate", "ls /sys/class/net",
	}, "; ")))
	p.Hostname = "web"
	said, _ := w.finish(t, p)
	for _, want := range []string{
		"CapInh:\t0000000000000000", "CapEff:\t00000000a80425fb", "CapBnd:\t00000000a80425fb", "CapAmb:\t0000000000000000",
		"NoNewPrivs:\t1", "Seccomp:\t2", "0    1048576      65536", "core_pattern: Read-only file system", "uevent_helper: Read-only file system",
		"web\nunknown\nlo\n",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q in\n%s", want, said)
		}
	}
}

// TestMounts uses a volume, a read-only bind mount and a tmpfs. A volume keeps the
// owners that files have in the container.
func TestMounts(t *testing.T) {
	w := newWorld(t)
	volume, shared := t.TempDir(), t.TempDir()
	for _, dir := range []string{volume, shared} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(shared, "note"), []byte("hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := prepare(t, shell("exec 2>&1; echo x > /data/deep/file; cat /shared/note; echo x > /shared/note; touch /scratch/a && ls /scratch; echo me >> /etc/hosts && cat /etc/hosts"))
	p.Hosts = []instance.HostsEntry{{Address: "10.0.0.9", Names: []string{"db", "database"}}}
	p.Mounts = []instance.Mount{
		{Type: api.MountVolume, Source: volume, Target: "/data/deep"},
		{Type: api.MountTmpfs, Target: "/data", Size: 1 << 20, Mode: 0o1777},
		{Type: api.MountBind, Source: shared, Target: "/shared", ReadOnly: true},
		{Type: api.MountTmpfs, Target: "/scratch", Size: 1 << 20, Mode: 0o1777},
	}
	said, _ := w.finish(t, p)
	want := "hello\nsh: can't create /shared/note: Read-only file system\na\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.9\tdb database\nme\n"
	if said != want {
		t.Errorf("%q; want %q", said, want)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(volume, "file"), &st); err != nil || st.Uid != 0 {
		t.Errorf("in the volume: %v, uid %d; want 0", err, st.Uid)
	}
}

// TestTerminal runs with a terminal and resizes it.
func TestTerminal(t *testing.T) {
	w := newWorld(t)
	p := prepare(t, shell(`busybox stty size
		until [ "$(busybox stty size)" = "40 100" ]; do busybox usleep 1000; done
		echo resized; read x; echo got $x; exit 6`))
	p.Process.TTY, p.Process.OpenStdin, p.Process.InitialSize = true, true, api.Size{Rows: 33, Cols: 77}
	run, err := w.driver(t).Create(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := run.Delete(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	in, out := io.Pipe()
	heard, says := io.Pipe()
	sizes, ready, done := make(chan api.Size), make(chan struct{}), make(chan error, 1)
	go func() {
		err := run.(instance.Attacher).Attach(t.Context(), instance.Streams{Stdin: in, Stdout: says, Resize: sizes}, func() { close(ready) })
		says.CloseWithError(io.EOF)
		done <- err
	}()
	<-ready
	if _, err := run.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(heard)
	expect := func(what string) {
		t.Helper()
		for lines.Scan() {
			if strings.TrimSpace(lines.Text()) == what {
				return
			}
		}
		t.Fatalf("it did not say %q", what)
	}
	expect("33 77")
	sizes <- api.Size{Rows: 40, Cols: 100}
	expect("resized")
	if _, err := io.WriteString(out, "word\r"); err != nil {
		t.Fatal(err)
	}
	expect("got word")
	exit, err := run.Wait(t.Context())
	if err != nil || exit.Code != 6 {
		t.Errorf("%+v, %v", exit, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	out.Close()
}

// TestStopPaused ends a container that is frozen.
func TestStopPaused(t *testing.T) {
	w := newWorld(t)
	run := w.begin(t, prepare(t, shell("sleep 100")))
	if err := run.(instance.Pauser).Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := run.Stop(t.Context(), int(syscall.SIGTERM), 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if exit, err := run.Wait(t.Context()); err != nil || exit.Code != 137 {
		t.Errorf("%+v, %v", exit, err)
	}
}

// TestOutOfMemory tells why it ended.
func TestOutOfMemory(t *testing.T) {
	w := newWorld(t)
	p := prepare(t, shell("x=$(head -c 200000000 /dev/zero | busybox tr '\\0' x); echo survived"))
	p.Spec.Limits.Memory = 32 << 20
	if said, exit := w.finish(t, p); !exit.OOM || exit.Code != 137 {
		t.Errorf("%+v, %q", exit, said)
	}
}

// TestAttackCopy copies while the container leads paths to the host
// (CVE-2018-15664, CVE-2019-14271).
func TestAttackCopy(t *testing.T) {
	w := newWorld(t)
	victim := t.TempDir()
	secret := filepath.Join(victim, "secret")
	if err := os.WriteFile(secret, []byte("of the host"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := prepare(t, shell("echo ready; sleep 100"))
	root := p.Rootfs.Layers[0]
	up := strings.Repeat("../", 20)
	for name, target := range map[string]string{"abs": victim, "rel": up + victim, "file": secret, "proot": "/proc/1/root" + victim, "self": "/proc/self/cwd/" + up + victim} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	c := w.begin(t, p).(instance.Copier)
	for _, path := range []string{"/abs/secret", "/rel/secret", "/file/", "/proot/secret", "/self/secret", "/" + up + secret} {
		var out bytes.Buffer
		if err := c.CopyOut(t.Context(), path, &out); err == nil && strings.Contains(out.String(), "of the host") {
			t.Errorf("%s gave away the host's file", path)
		}
	}
	var in bytes.Buffer
	tw := tar.NewWriter(&in)
	for _, name := range []string{"abs/made", "rel/made", "file", up + victim + "/made", "/abs/deep/made", "proot/made"} {
		_ = tw.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: 4})
		_, _ = tw.Write([]byte("evil"))
	}
	_ = tw.Close()
	if err := c.CopyIn(t.Context(), "/", &in); err != nil {
		t.Logf("refused: %v", err)
	}
	for _, dir := range []string{"/abs", "/rel", "/proot"} {
		_ = c.CopyIn(t.Context(), dir, bytes.NewReader(in.Bytes()))
	}
	if entries, err := os.ReadDir(victim); err != nil || len(entries) != 1 {
		t.Errorf("on the host: %v, %v", entries, err)
	}
	if text, _ := os.ReadFile(secret); string(text) != "of the host" {
		t.Errorf("the host's file says %q", text)
	}
}

// TestVariants runs with what widens or changes the default.
func TestVariants(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		name   string
		script string
		edit   func(*instance.Prepared)
		want   string
	}{
		{"reaping init", "[ $$ != 1 ] && echo a child; exit 3", func(p *instance.Prepared) { p.Spec.Init = api.InitReap }, "a child\n"},
		{"host network", "ls -d /sys/class/net/lo; echo x > /sys/kernel/uevent_helper || echo refused", func(p *instance.Prepared) { p.HostNet = true },
			"/sys/class/net/lo\nsh: can't create /sys/kernel/uevent_helper: Read-only file system\nrefused\n"},
		{"no user namespace", "head -n1 /proc/self/uid_map", func(p *instance.Prepared) {
			p.Users, p.Spec.Security.HostUsers = instance.IDRange{}, true
		}, "         0          0 4294967295\n"},
		{"read-only", "touch /x || echo refused", func(p *instance.Prepared) { p.Spec.Security.ReadOnly = true }, "touch: /x: Read-only file system\nrefused\n"},
		{"user", "id -u; id -g; echo $HOME", func(p *instance.Prepared) { p.Process.User = "1234:77" }, "1234\n77\n/\n"},
		{"ulimit", "ulimit -n", func(p *instance.Prepared) {
			p.Spec.Ulimits = []api.Ulimit{{Name: "nofile", Soft: 99, Hard: 99}}
		}, "99\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := prepare(t, shell("exec 2>&1; "+c.script))
			c.edit(p)
			if said, exit := w.finish(t, p); said != c.want {
				t.Errorf("%q, %+v; want %q", said, exit, c.want)
			}
		})
	}
}
