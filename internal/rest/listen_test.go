package rest_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/client"
	"github.com/berthcloud/berth/internal/rest"
)

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "berthd.sock")
	l, err := rest.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm()&0o007 != 0 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if _, err := rest.Listen(path); !api.IsKind(err, api.InUse) || strings.Contains(err.Error(), "\n") {
		t.Errorf("a second daemon: %v", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("after the second daemon: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	l, err = rest.Listen(path)
	if err != nil {
		t.Fatalf("the next daemon: %v", err)
	}
	l.Close()
}

// A daemon that was killed leaves its socket: the next one replaces it.
func TestListenReplacesStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	l, err := rest.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestListenRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, kind := range map[string]api.ErrorKind{
		file:                                 api.Exists,
		filepath.Join(file, "below"):         api.Invalid,
		"/tmp/" + strings.Repeat("long", 50): api.Invalid,
	} {
		if _, err := rest.Listen(path); !api.IsKind(err, kind) {
			t.Errorf("%s: %v; want kind %s", path, err, kind)
		}
	}
	if text, _ := os.ReadFile(file); string(text) != "precious" {
		t.Errorf("the file now holds %q", text)
	}
}

func TestUnreachable(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for path, says := range map[string]string{
		filepath.Join(dir, "none"): "no such socket; start it with 'berthd' or name another with BERTH_HOST",
		dead:                       "nobody listens on the socket; start it with 'berthd'",
	} {
		c, err := client.New("unix://" + path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Version(t.Context())
		if !api.IsKind(err, api.Unavailable) || !strings.Contains(err.Error(), "cannot reach berthd at unix://"+path+": "+says) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, host := range []string{"tcp://localhost:1", "/run/x", "unix://relative", "ssh://x"} {
		if _, err := client.New(host); !api.IsKind(err, api.Invalid) {
			t.Errorf("%s: %v", host, err)
		}
	}
}
