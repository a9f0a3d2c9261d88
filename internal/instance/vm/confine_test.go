package vm_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/qemu"
)

// TestConfined looks from outside at a real QEMU of each kind, and at the virtiofsd
// that serves it: whatever one has is on a list.
func TestConfined(t *testing.T) {
	h := newHarness(t)
	for name, prepare := range map[string]func(*instance.Prepared){
		"para": func(p *instance.Prepared) {
			p.Mounts = []instance.Mount{{Type: api.MountBind, Source: t.TempDir(), Target: "/share"}}
		},
		"full": func(p *instance.Prepared) {
			p.Spec.VM.Virtualization, p.Kernel = api.VirtFull, h.standard
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := h.prepare(t, sh("sleep 1000"))
			prepare(p)
			run, err := h.driver().Create(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			defer run.Delete(context.WithoutCancel(t.Context()))
			if _, err := run.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			h.confined(t, p, h.pid(t, p.ID))
			for i := range p.Mounts {
				h.serverConfined(t, h.pid(t, fmt.Sprintf("%s.fs%d", p.ID, i)), p.Mounts[i].Source)
			}
		})
	}
}

// pid returns the pid of what the keeper keeps.
func (h *harness) pid(t *testing.T, id string) int {
	t.Helper()
	st, err := h.keeper.Status(t.Context(), id)
	if err != nil || st.PID == 0 {
		t.Fatalf("%s: %+v, %v", id, st, err)
	}
	return st.PID
}

func read(t *testing.T, format string, args ...any) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf(format, args...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// confined looks at QEMU.
func (h *harness) confined(t *testing.T, p *instance.Prepared, pid int) {
	t.Helper()
	status := read(t, "/proc/%d/status", pid)
	uid := fmt.Sprint(p.Users.First)
	for _, want := range []string{
		"Uid:" + strings.Repeat("\t"+uid, 4), "Gid:" + strings.Repeat("\t"+uid, 4), "Groups:\t ", fmt.Sprintf("NSpid:\t%d\t1", pid), "NoNewPrivs:\t1",
		"Seccomp:\t2", "Seccomp_filters:\t2", "CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000",
		"CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000",
	} {
		if !strings.Contains(status, "\n"+want+"\n") {
			t.Errorf("QEMU has no %q in\n%s", want, status)
		}
	}
	ownNamespaces(t, pid)
	for _, limit := range []string{"Max core file size +0 +0 ", "Max msgqueue size +0 +0 "} {
		if limits := read(t, "/proc/%d/limits", pid); !regexp.MustCompile(limit).MatchString(limits) {
			t.Errorf("no %q in\n%s", limit, limits)
		}
	}

	needs, err := qemu.Needs(t.Context(), h.host.QEMU["amd64"])
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{"/": true, "/kernel": true, "/initrd": true}
	for _, n := range needs {
		allowed[n.Path] = true
	}
	for line := range strings.Lines(read(t, "/proc/%d/mountinfo", pid)) {
		// 36 35 98:0 /of/the/host /here ro,nosuid,nodev … - ext4 …
		f := strings.Fields(line)
		if f[4] == os.DevNull {
			continue // which harms nobody, and every process has
		}
		if options := strings.Split(f[5], ","); !allowed[f[4]] || !slices.Contains(options, "ro") || !slices.Contains(options, "nosuid") || !slices.Contains(options, "nodev") {
			t.Errorf("QEMU has the mount %s", line)
		}
		delete(allowed, f[4])
	}
	if len(allowed) > 0 {
		t.Errorf("QEMU does not have %v", allowed)
	}
	onlyOpen(t, pid, `^(socket|pipe|anon_inode):`, `^/memfd:`, `^/dev/net/tun$`, `^/dev/null$`, "^"+regexp.QuoteMeta(p.Dir)+"/", "^"+regexp.QuoteMeta(p.RunDir)+"/", "^"+regexp.QuoteMeta(h.layer)+"$", `/keeper/[0-9a-f]{64}/(tail|console)$`)
}

// ownNamespaces wants a process to share none of the host's.
func ownNamespaces(t *testing.T, pid int) {
	t.Helper()
	for _, kind := range []string{"mnt", "pid", "net", "ipc", "uts", "cgroup"} {
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		if err != nil {
			t.Fatal(err)
		}
		if ours, err := os.Readlink("/proc/self/ns/" + kind); err != nil || ours == theirs {
			t.Errorf("process %d has the host's %s namespace: %v", pid, kind, err)
		}
	}
}

// onlyOpen wants each descriptor of a process to be of something on a list, and no
// directory.
func onlyOpen(t *testing.T, pid int, list ...string) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	allowed := regexp.MustCompile(strings.Join(list, "|"))
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		info, err := os.Stat(filepath.Join(dir, e.Name()))
		if !allowed.MatchString(target) || err == nil && info.IsDir() {
			t.Errorf("process %d has descriptor %s: %s", pid, e.Name(), target)
		}
	}
}

// serverConfined looks at virtiofsd, which is two processes: one waits for the other.
func (h *harness) serverConfined(t *testing.T, pid int, source string) {
	t.Helper()
	// What virtiofsd(1) lists, and the means to its own sandbox.
	const most = 1<<0 | 1<<1 | 1<<3 | 1<<4 | 1<<6 | 1<<7 | 1<<8 | 1<<21 | 1<<27 | 1<<31
	waits, serves := pid, 0
	if _, err := fmt.Sscan(read(t, "/proc/%d/task/%d/children", pid, pid), &serves); err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{waits, serves} {
		status := read(t, "/proc/%d/status", pid)
		if !strings.Contains(status, "\nNoNewPrivs:\t1\n") {
			t.Errorf("virtiofsd may gain rights:\n%s", status)
		}
		for _, set := range []string{"CapPrm", "CapEff", "CapBnd"} {
			_, text, _ := strings.Cut(status, set+":\t")
			var have uint64
			if _, err := fmt.Sscanf(text, "%x", &have); err != nil || have&^most != 0 {
				t.Errorf("virtiofsd's %s is %x, %v", set, have, err)
			}
		}
		ownNamespaces(t, pid)
	}
	if !strings.Contains(read(t, "/proc/%d/status", serves), "\nSeccomp:\t2\n") {
		t.Error("virtiofsd has no seccomp filter")
	}
	if info, err := os.Stat(fmt.Sprintf("/proc/%d/root", serves)); err != nil || !os.SameFile(info, stat(t, source)) {
		t.Errorf("virtiofsd's root is not the share: %v", err)
	}
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/root", waits))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains([]string{"etc", "lib", "lib64", "proc", "share", "usr"}, e.Name()) {
			t.Errorf("virtiofsd's first process sees /%s", e.Name())
		}
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/root/etc/passwd", waits)); err == nil {
		t.Error("virtiofsd's first process sees the host's users")
	}
}

func stat(t *testing.T, path string) os.FileInfo {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info
}
