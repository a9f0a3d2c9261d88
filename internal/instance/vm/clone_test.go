package vm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/link"
	"github.com/berthcloud/berth/internal/testenv"
)

// TestClass16Clones makes two clones of one running machine, and two of one that is
// paused, whose programs draw randomness all the time: no two of them draw the same, or
// know themselves by the same name, machine id or address.
func TestClass16Clones(t *testing.T) {
	h := newHarness(t)
	bridge := link.Bridge{Name: "bvm0", MAC: "52:54:00:00:00:01", Address: netip.MustParsePrefix("10.99.0.1/24")}
	if err := link.EnsureBridge(bridge); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = link.Delete("bvm0") })
	for _, paused := range []bool{false, true} {
		source := h.prepare(t, sh(`echo 0123456789abcdef0123456789abcdef >/etc/machine-id
			ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key
			while :; do dd if=/dev/urandom bs=16 count=8 2>/dev/null | od -An -tx1 -v; sleep 0.01; done`))
		source.Rootfs.Layers = append(source.Rootfs.Layers, keygenLayer(t))
		plug(t, source, 1)
		first := h.begin(t, source)
		testenv.Eventually(t, time.Minute, func() error { return says(t, source, 3) })
		if paused {
			pauseHeld(t, first, source)
		}
		told, keys := map[string]bool{}, map[string]bool{}
		drawn := map[string]string{}
		for n := 2; n <= 3; n++ {
			p := h.prepare(t, source.Process)
			plug(t, p, n)
			p.Rootfs.Layers = source.Rootfs.Layers
			p.Cloned, p.Hostname = true, p.ID[:12]
			began := time.Now()
			if err := first.(instance.Saver).Save(t.Context(), p.SavedDir(), instance.SaveOptions{Disks: true, Copy: true}); err != nil {
				t.Fatal(err)
			}
			saved := time.Now()
			clone := h.begin(t, p)
			if st, err := clone.Status(t.Context()); err != nil || !strings.Contains(st.Machine.Start, "clone") {
				t.Errorf("its machine is %+v, %v", st.Machine, err)
			}
			t.Logf("saved in %v, started in %v", saved.Sub(began), time.Since(saved))
			out := run(t, clone, "hostname; cat /etc/hostname /etc/machine-id; ip -o -4 address show eth0; ip link show eth0 | grep ether; ping -c 1 -W 5 10.99.0.1 | grep received")
			for _, want := range []string{p.Hostname + "\n" + p.Hostname + "\n" + instance.MachineID(p.ID) + "\n", p.Interfaces[0].Address[0], p.Interfaces[0].MAC, "1 packets received"} {
				if !strings.Contains(out, want) {
					t.Errorf("it knows itself as %s without %s", out, want)
				}
			}
			if strings.Contains(out, source.Interfaces[0].MAC) || strings.Contains(out, source.Interfaces[0].Address[0]) {
				t.Errorf("it has something of its source: %s", out)
			}
			told[out], keys[run(t, clone, publicKey)] = true, true
			testenv.Eventually(t, time.Minute, func() error { return says(t, p, 20*burst) })
			// The first may have been drawn before the machine was saved, and written
			// afterwards: by each that goes on from there, the source too.
			for _, line := range lines(t, p)[burst:] {
				if before, twice := drawn[line]; twice {
					t.Errorf("%s and the clone %s drew %s", before, p.ID, line)
				}
				drawn[line] = p.ID
			}
		}
		if len(told) != 2 {
			t.Errorf("the clones know themselves as %v", told)
		}
		if paused {
			if st, err := first.Status(t.Context()); err != nil || st.State != api.Paused {
				t.Errorf("the source is %+v, %v", st, err)
			}
			if err := first.(instance.Pauser).Unpause(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		n := len(lines(t, source))
		testenv.Eventually(t, time.Minute, func() error { return says(t, source, n+2*burst) })
		for _, line := range lines(t, source)[n:] {
			if by := drawn[line]; by != "" {
				t.Errorf("the source and its clone %s drew %s", by, line)
			}
		}
		if keys[run(t, first, publicKey)] = true; len(keys) != 3 {
			t.Errorf("of three machines the keys are %v", keys)
		}
		if out := run(t, first, "cat /etc/machine-id"); out != "0123456789abcdef0123456789abcdef\n" {
			t.Errorf("the source's machine id is %s", out)
		}
	}
}

// pauseHeld pauses a machine whose guest says in time that it is held. One that nobody gives
// a processor does not, and is paused all the same.
func pauseHeld(t *testing.T, run instance.Handle, p *instance.Prepared) {
	t.Helper()
	testenv.Eventually(t, time.Minute, func() error {
		if err := run.(instance.Pauser).Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		word, _ := os.ReadFile(filepath.Join(p.RunDir, "held"))
		if string(word) == "held" {
			return nil
		}
		if err := run.(instance.Pauser).Unpause(t.Context()); err != nil {
			t.Fatal(err)
		}
		return fmt.Errorf("its guest is not held, but %q", word)
	})
}

// burst is how many numbers the machines draw in a row. The kernel makes each from what
// the one before has left, whoever gets it: machines with one state have most in common.
const burst = 8

// publicKey has the private half of an ssh host key say what its public half is.
const publicKey = "ssh-keygen -y -f /etc/ssh/ssh_host_ed25519_key | cut -d ' ' -f 2"

// keygenLayer makes a layer with the host's ssh-keygen and what it is linked with.
func keygenLayer(t *testing.T) string {
	t.Helper()
	const program = "/usr/bin/ssh-keygen"
	out, err := exec.Command("ldd", program).Output()
	if err != nil {
		t.Fatal(err)
	}
	tree := t.TempDir()
	for _, word := range append(strings.Fields(string(out)), program) {
		if !strings.HasPrefix(word, "/") {
			continue
		}
		content, err := os.ReadFile(word)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(tree, filepath.Dir(word)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(tree, word), content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(tree+"/etc/ssh", 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "keygen.erofs")
	if err := mkErofs(path, tree); err != nil {
		t.Fatal(err)
	}
	return path
}

// plug gives an instance the n-th interface and name.
func plug(t *testing.T, p *instance.Prepared, n int) {
	p.ID, p.Cgroup = fmt.Sprintf("%s-%d", p.ID, n), fmt.Sprintf("%s-%d", p.Cgroup, n)
	p.Hostname = fmt.Sprintf("guest%d", n)
	tap := fmt.Sprintf("bvmtap%d", n)
	p.Interfaces = []instance.Interface{{Name: "eth0", HostName: tap, Bridge: "bvm0", MAC: fmt.Sprintf("52:54:00:12:34:%02x", n),
		Address: []string{fmt.Sprintf("10.99.0.%d/24", n+1)}, Gateway: "10.99.0.1"}}
	t.Cleanup(func() { _ = link.Delete(tap) }) // as the network would
}

// begin starts a prepared instance that ends with the test.
func (h *harness) begin(t *testing.T, p *instance.Prepared) instance.Handle {
	t.Helper()
	run, err := h.driver().Create(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := run.Delete(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	if _, err := run.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return run
}

// lines are what an instance has written, from its log.
func lines(t *testing.T, p *instance.Prepared) (list []string) {
	t.Helper()
	log, err := os.ReadFile(p.LogPath)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(log)) {
		if fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4); len(fields) == 4 && fields[2] == "F" {
			list = append(list, fields[3])
		}
	}
	return list
}

// says reports whether an instance has written so many lines.
func says(t *testing.T, p *instance.Prepared, count int) error {
	if n := len(lines(t, p)); n < count {
		return fmt.Errorf("%s has written %d lines of %d", p.ID, n, count)
	}
	return nil
}

// run runs a script in a guest and returns what it says.
func run(t *testing.T, h instance.Handle, script string) string {
	t.Helper()
	var out bytes.Buffer
	exit, err := h.(instance.Execer).Exec(t.Context(), api.Exec{Command: []string{"sh", "-c", script}}, instance.Streams{Stdout: &out})
	if err != nil || exit.Code != 0 {
		t.Fatalf("%s: %+v, %v: %s", script, exit, err, out.String())
	}
	return out.String()
}
