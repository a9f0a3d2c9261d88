package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCheckFinds makes one leak of each sort and sees it found, and gone
// after it is taken back.
func TestCheckFinds(t *testing.T) {
	Check(t)
	tests := map[string]func(t *testing.T) (takeBack func()){
		"goroutine": func(t *testing.T) func() {
			stop, done := make(chan struct{}), make(chan struct{})
			go func() { <-stop; close(done) }()
			return func() { close(stop); <-done }
		},
		"file descriptor": func(t *testing.T) func() {
			f, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			return func() { f.Close() }
		},
		"process": func(t *testing.T) func() {
			cmd := exec.Command("sleep", "60")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			return func() { cmd.Process.Kill(); cmd.Wait() }
		},
		"mount": func(t *testing.T) func() {
			needRoot(t)
			dir := Dir(t)
			if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
				t.Fatal(err)
			}
			return func() { unix.Unmount(dir, 0) }
		},
		"cgroup": func(t *testing.T) func() {
			needRoot(t)
			roots, _ := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
			if len(roots) == 0 {
				roots = []string{"/sys/fs/cgroup/cgroup.procs"}
			}
			dir := filepath.Join(filepath.Dir(roots[0]), Name(t))
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			return func() { os.Remove(dir) }
		},
		"network interface": func(t *testing.T) func() {
			needRoot(t)
			if out, err := exec.Command("ip", "link", "add", Name(t), "type", "bridge").CombinedOutput(); err != nil {
				t.Skipf("no bridge: %v: %s", err, out)
			}
			return func() { exec.Command("ip", "link", "del", Name(t)).Run() }
		},
	}
	for kind, leak := range tests {
		t.Run(kind, func(t *testing.T) {
			s := scope{owns: owns(t), token: Token(t)}
			before := s.take()
			takeBack := leak(t)
			found := ""
			for key, what := range s.take() {
				if _, ok := before[key]; !ok {
					found += what + "\n"
				}
			}
			takeBack()
			if !strings.Contains(found, kind) {
				t.Errorf("not found; found instead: %q", found)
			}
			for _, rest := range s.settle(before) {
				t.Errorf("still there: %s", rest)
			}
		})
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

func TestNameFitsInterface(t *testing.T) {
	if n := Name(t); len(n) != 11 || !strings.HasPrefix(n, Token(t)) {
		t.Errorf("Name = %q, Token = %q", n, Token(t))
	}
}
