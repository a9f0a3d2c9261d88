package testenv

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// CacheDir returns the directory that keeps what tests build from Debian's
// packages: kernels, root filesystems. It is BERTH_TEST_CACHE, or berth-test
// in the user's cache directory.
func CacheDir(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("BERTH_TEST_CACHE")
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			base = os.TempDir()
		}
		dir = filepath.Join(base, "berth-test")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// cached returns the directory that holds what fill makes. The recipe is
// everything that fill depends on: another recipe is another directory. Of
// several processes that ask at once, one fills and the others wait. A fill
// that fails or is killed leaves nothing that a later one would take for whole.
func cached(t testing.TB, name, recipe string, fill func(ctx context.Context, dir string) error) string {
	t.Helper()
	sum := sha256.Sum256([]byte(recipe))
	dir := filepath.Join(CacheDir(t), name+"-"+hex.EncodeToString(sum[:6]))
	unlock := lock(t, dir+".lock")
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	part := dir + ".part"
	if err := errors.Join(os.RemoveAll(part), os.MkdirAll(part, 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := fill(t.Context(), part); err != nil {
		os.RemoveAll(part)
		t.Fatalf("make %s for the tests: %v", name, err)
	}
	if err := os.Rename(part, dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Cached returns the directory that holds what fill makes of the recipe, which is
// everything that it depends on, for this test and later runs.
func Cached(t testing.TB, name, recipe string, fill func(ctx context.Context, dir string) error) string {
	t.Helper()
	return cached(t, name, recipe, fill)
}

// lock takes an exclusive lock that the kernel gives back when we die.
func lock(t testing.TB, path string) (unlock func()) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return func() { f.Close() }
}

// Programs builds every program of the repository, static as "make build"
// does, and returns the directory they are in. Each call builds anew what has
// changed. BERTH_TEST_PROGRAMS names a directory of programs to test instead.
func Programs(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("BERTH_TEST_PROGRAMS"); dir != "" {
		return dir
	}
	dir := filepath.Join(CacheDir(t), "bin")
	unlock := lock(t, dir+".lock")
	defer unlock()
	top := Repository(t)
	commands, err := filepath.Glob(filepath.Join(top, "cmd", "*"))
	if err != nil {
		t.Fatal(err)
	}
	if err := goBuild(t.Context(), top, dir+"/", commands...); err != nil {
		t.Fatal(err)
	}
	return dir
}

// ForeignAgent builds the guest agent of another architecture into the directory of
// Programs, where berthd looks for it.
func ForeignAgent(t testing.TB, arch string) {
	t.Helper()
	if os.Getenv("BERTH_TEST_PROGRAMS") != "" {
		return
	}
	dir := filepath.Join(CacheDir(t), "bin")
	unlock := lock(t, dir+".lock")
	defer unlock()
	top := Repository(t)
	if err := goBuildFor(t.Context(), arch, top, filepath.Join(dir, "berth-agent-"+arch), filepath.Join(top, "cmd", "berth-agent")); err != nil {
		t.Fatal(err)
	}
}

// goBuild builds packages of the repository in dir to out.
func goBuild(ctx context.Context, dir, out string, packages ...string) error {
	return goBuildFor(ctx, runtime.GOARCH, dir, out, packages...)
}

func goBuildFor(ctx context.Context, arch, dir, out string, packages ...string) error {
	argv := append([]string{"build", "-trimpath", "-ldflags", "-s -w", "-o", out}, packages...)
	cmd := exec.CommandContext(ctx, "go", argv...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+arch)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", strings.Join(packages, " "), err, text)
	}
	return nil
}

// Repository returns the top directory of the repository.
func Repository(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
	}
	t.Fatal("the test does not run in the repository")
	return ""
}

// run runs a command and returns its output; its errors end the message.
func run(ctx context.Context, dir string, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = dir
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, tail(errs.String(), 2000))
	}
	return out.String(), nil
}

// tail returns the last n bytes of s.
func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// Module returns the directory of a Go module's source, of the version that go.mod says.
func Module(t testing.TB, path string) string {
	t.Helper()
	dir, err := run(t.Context(), Repository(t), "go", "list", "-m", "-f", "{{.Dir}}", path)
	if dir = strings.TrimSpace(dir); err != nil || dir == "" {
		t.Fatalf("the source of %s is not here: %v", path, err)
	}
	return dir
}
