package testenv

import (
	"crypto/sha256"
	"encoding/base32"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// tokenLength keeps Name short enough that a caller can add four bytes and
// still name a network interface (15 bytes).
const tokenLength = 8

// Token returns eight letters and digits that mark what a top-level test and
// its subtests make: they are part of every Name and Dir. They differ between
// tests and between processes.
func Token(t testing.TB) string {
	top, _, _ := strings.Cut(t.Name(), "/")
	return "bt" + hash(strconv.Itoa(os.Getpid()) + top)[:tokenLength-2]
}

// Name returns 11 letters and digits that name something of this test or
// subtest on the machine: an interface, a cgroup, a network namespace.
func Name(t testing.TB) string { return Token(t) + hash(t.Name())[:3] }

// Dir makes a directory with a short name, so that paths of Unix sockets
// below it fit their 107 bytes. It is removed with the test; a mount that is
// still there then fails the test.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(os.TempDir(), Token(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the directory of the test: %v", err)
		}
	})
	return dir
}

// owns reports whether a path or a command line names a directory of t.
func owns(t testing.TB) func(text string) bool {
	own := filepath.Join(os.TempDir(), Token(t))
	temp := filepath.Dir(t.TempDir()) + "/" // every TempDir of t and nothing else
	return func(text string) bool { return strings.Contains(text, own) || strings.Contains(text, temp) }
}

// hash returns letters and digits that depend on s alone.
func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return strings.ToLower(base32.HexEncoding.EncodeToString(sum[:10]))
}
