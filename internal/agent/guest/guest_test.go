package guest

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/berthcloud/berth/internal/agent"
)

const (
	passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/false\n44:x:1044:1044::/home/n:\nbig:x:4294967296:0::/:\n"
	group  = "root:x:0:\nweb:x:34:\nlog:x:4:web,other\nbroken\n44:x:2044:\n"
)

func TestLookup(t *testing.T) {
	for _, c := range []struct {
		spec string
		want account
		fail bool
	}{
		{spec: "", want: account{home: "/root"}},
		{spec: "web", want: account{uid: 33, gid: 34, groups: []uint32{4}, home: "/srv"}},
		{spec: "33", want: account{uid: 33, gid: 34, groups: []uint32{4}, home: "/srv"}},
		{spec: "web:log", want: account{uid: 33, gid: 4, home: "/srv"}},
		{spec: "web:", want: account{uid: 33, gid: 34, groups: []uint32{4}, home: "/srv"}},
		{spec: "7:8", want: account{uid: 7, gid: 8, home: "/"}},
		{spec: "7", want: account{uid: 7, home: "/"}},
		{spec: "44", want: account{uid: 1044, gid: 1044, home: "/home/n"}}, // a name that is a number
		{spec: "web:44", want: account{uid: 33, gid: 2044, home: "/srv"}},
		{spec: "nobody", fail: true},
		{spec: "web:nogroup", fail: true},
		{spec: "big", fail: true},
		{spec: "4294967296", fail: true},
		{spec: "4294967295", fail: true},
		{spec: "-1", fail: true},
		{spec: "0:-1", fail: true},
	} {
		got, err := lookup(c.spec, passwd, group)
		if (err != nil) != c.fail || (err == nil && !reflect.DeepEqual(got, c.want)) {
			t.Errorf("lookup(%q) = %+v, %v; want %+v", c.spec, got, err, c.want)
		}
	}
}

func FuzzLookup(f *testing.F) {
	f.Add("web:log", passwd, group)
	f.Fuzz(func(t *testing.T, spec, passwd, group string) {
		a, err := lookup(spec, passwd, group)
		if err == nil && (a.uid == 1<<32-1 || a.gid == 1<<32-1) {
			t.Errorf("lookup(%q) gives the id that means no change", spec)
		}
	})
}

func TestParseStat(t *testing.T) {
	line := "12 (a) b (c) S 3 12 12 0 -1 4194304 1 0 0 0 5 6 0 0 20 0 1 0 100 4096000 25 184 0"
	p, ok := parseStat(line)
	want := agent.Proc{PID: 12, PPID: 3, State: "S", Memory: 25 * int64(os.Getpagesize()), Command: "a) b (c"}
	if !ok || p != want {
		t.Errorf("got %+v, %v; want %+v", p, ok, want)
	}
	for _, bad := range []string{"", "1", "1 (", "x (a) S 1", "1 (a) S"} {
		if _, ok := parseStat(bad); ok {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestStatsReadThisMachine(t *testing.T) {
	s, err := readStats()
	if err != nil || s.CPU <= 0 || s.Memory <= 0 || s.MemoryTotal < s.Memory || s.PIDs < 1 {
		t.Errorf("%+v, %v", s, err)
	}
	rx, tx := networkUse("Inter-|\n face |bytes\n    lo: 5 0 0 0 0 0 0 0 5\n  eth0: 10 1 0 0 0 0 0 0 20 1\n")
	if rx != 10 || tx != 20 {
		t.Errorf("network use %d, %d", rx, tx)
	}
	read, written := diskUse("254 0 vda 1 0 8 0 2 0 4 0\n254 1 vda1 1 0 8 0 2 0 4 0\n")
	if read != 8*512 || written != 4*512 {
		t.Errorf("disk use %d, %d", read, written)
	}
}

func TestCopyThereAndBack(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	for _, err := range []error{
		os.MkdirAll(filepath.Join(from, "d/sub"), 0o750),
		os.WriteFile(filepath.Join(from, "d/sub/f"), []byte("content"), 0o640),
		os.Symlink("/etc/passwd", filepath.Join(from, "d/link")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var archive bytes.Buffer
	if err := copyOut(filepath.Join(from, "d"), &archive); err != nil {
		t.Fatal(err)
	}
	if err := copyIn(to, &archive); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(to, "d/sub/f"))
	link, lerr := os.Readlink(filepath.Join(to, "d/link"))
	if err != nil || lerr != nil || string(data) != "content" || link != "/etc/passwd" {
		t.Errorf("%q, %v; %q, %v", data, err, link, lerr)
	}
	if err := copyOut(filepath.Join(from, "none"), &archive); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a path that does not exist: %v", err)
	}
}

// TestClass7CopyInStaysInside unpacks archives that try to leave the directory.
func TestClass7CopyInStaysInside(t *testing.T) {
	for name, entries := range map[string][]tar.Header{
		"dots":          {{Name: "../out", Typeflag: tar.TypeReg}},
		"absolute":      {{Name: "/../../out", Typeflag: tar.TypeReg}},
		"link then use": {{Name: "l", Linkname: "..", Typeflag: tar.TypeSymlink}, {Name: "l/out", Typeflag: tar.TypeReg}},
		"hard link":     {{Name: "h", Linkname: "../victim", Typeflag: tar.TypeLink}},
		"device":        {{Name: "d", Typeflag: tar.TypeChar}},
	} {
		outer := t.TempDir()
		dir := filepath.Join(outer, "dir")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(outer, "victim"), []byte("v"), 0o600); err != nil {
			t.Fatal(err)
		}
		var archive bytes.Buffer
		w := tar.NewWriter(&archive)
		for _, e := range entries {
			if err := w.WriteHeader(&e); err != nil {
				t.Fatal(err)
			}
		}
		w.Close()
		_ = copyIn(dir, &archive)
		entriesLeft, err := os.ReadDir(outer)
		victim, _ := os.ReadFile(filepath.Join(outer, "victim"))
		if err != nil || len(entriesLeft) != 2 || string(victim) != "v" {
			t.Errorf("%s: left the directory: %v", name, entriesLeft)
		}
	}
}

func TestLookCommand(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"run": 0o755, "data": 0o644} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"PATH=/nowhere", "PATH=" + dir}
	if path, err := lookCommand("run", "/", env); err != nil || path != filepath.Join(dir, "run") {
		t.Errorf("run: %s, %v", path, err)
	}
	if path, err := lookCommand("./run", dir, nil); err != nil || path != filepath.Join(dir, "run") {
		t.Errorf("./run: %s, %v", path, err)
	}
	for name, want := range map[string]int{"none": agent.CodeNotFound, "data": agent.CodeNotRunnable, dir: agent.CodeNotRunnable, "/none": agent.CodeNotFound} {
		_, err := lookCommand(name, "/", env)
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		if got := startFailure(name, err); got.Code != want || !strings.Contains(got.Error, name) {
			t.Errorf("%s: %+v; want code %d", name, got, want)
		}
	}
}

func TestMerge(t *testing.T) {
	got := merge([]string{"A=1", "B=2", "AB=3"}, []string{"A=4", "C=5", "C=6"})
	if want := []string{"B=2", "AB=3", "A=4", "C=6"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
