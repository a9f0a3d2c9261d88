package mount

import (
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseOptions(t *testing.T) {
	for _, c := range []struct {
		list string
		want Options
	}{
		{"", Options{}},
		{"ro,nosuid,size=64k,mode=755", Options{Set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID, Data: []string{"size=64k", "mode=755"}}},
		{"ro,rw", Options{Clear: unix.MOUNT_ATTR_RDONLY}},
		{"rbind,rprivate,rro", Options{Bind: true, Recursive: true, Prop: unix.MS_PRIVATE | unix.MS_REC, RecSet: unix.MOUNT_ATTR_RDONLY}},
		{"bind,slave,idmap", Options{Bind: true, Prop: unix.MS_SLAVE, IDMap: true}},
		{"tryidmap", Options{IDMap: true, RecIDMap: true, TryIDMap: true}},
		{"noatime", Options{Set: unix.MOUNT_ATTR_NOATIME, Clear: unix.MOUNT_ATTR__ATIME}},
		{"tmpcopyup,defaults,sync", Options{CopyUp: true, Data: []string{"sync"}}},
	} {
		var list []string
		if c.list != "" {
			list = strings.Split(c.list, ",")
		}
		if got, err := ParseOptions(list); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %v; want %+v", c.list, got, err, c.want)
		}
	}
	if _, err := ParseOptions([]string{"a\x00b"}); err == nil {
		t.Error("a NUL byte was accepted")
	}
}

func TestParseOverlay(t *testing.T) {
	ov, err := ParseOverlay([]string{`lowerdir=/a\:b:/c\\d:/e`, "upperdir=/i/upper", "workdir=/i/work", "idmap", "volatile", "nosuid"})
	want := Overlay{Lower: []string{"/a:b", `/c\d`, "/e"}, Upper: "/i/upper", Work: "/i/work", IDMap: true,
		Data: []string{"volatile"}, Options: Options{Set: unix.MOUNT_ATTR_NOSUID}}
	if err != nil || !reflect.DeepEqual(ov, want) {
		t.Errorf("%+v, %v", ov, err)
	}
	for _, bad := range [][]string{
		{}, {"lowerdir=a"}, {"lowerdir=/a", "upperdir=/b"}, {"lowerdir=/a", "upperdir=/b/u", "workdir=/c/w"},
	} {
		if _, err := ParseOverlay(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// TestOverlayWays makes one overlay in each way that some kernel needs.
func TestOverlayWays(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	for _, c := range []struct {
		name string
		make func(Overlay, []layer) (int, error)
	}{
		{"appended", func(ov Overlay, l []layer) (int, error) { return ov.create(l, appendLower) }},
		{"joined", func(ov Overlay, l []layer) (int, error) { return ov.create(l, joinLower) }},
		{"attached", func(ov Overlay, l []layer) (int, error) {
			ov.IDMap = true // its layers are clones
			return inPrivateNamespace(func() (int, error) { return ov.makeAttached(l) })
		}},
		{"by mount", func(ov Overlay, _ []layer) (int, error) {
			return inPrivateNamespace(func() (int, error) {
				l, err := ov.openLayers(-1)
				defer closeLayers(l)
				if err != nil {
					return -1, err
				}
				return ov.makeByMount(l)
			})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, d := range []string{"a/x", "b/y", "i/upper", "i/work"} {
				if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			ov := Overlay{Lower: []string{dir + "/a", dir + "/b"}, Upper: dir + "/i/upper", Work: dir + "/i/work"}
			var layers []layer
			for _, d := range []string{"a", "b", "i"} {
				fd, err := unix.OpenTree(unix.AT_FDCWD, filepath.Join(dir, d), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
				if err != nil {
					t.Fatal(err)
				}
				defer unix.Close(fd)
				layers = append(layers, layer{filepath.Join(dir, d), fd})
			}
			fd, err := c.make(ov, layers)
			if c.name != "attached" && c.name != "by mount" && err != nil {
				t.Skipf("this kernel wants another way: %v", err)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			root := "/proc/self/fd/" + strconv.Itoa(fd)
			for _, d := range []string{"x", "y"} {
				if _, err := os.Stat(filepath.Join(root, d)); err != nil {
					t.Error(err)
				}
			}
			if err := os.WriteFile(filepath.Join(root, "new"), nil, 0o600); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(dir + "/i/upper/new"); err != nil {
				t.Error(err)
			}
			mounts, _ := os.ReadFile("/proc/self/mounts")
			if strings.Contains(string(mounts), dir) {
				t.Error("something is mounted on the host")
			}
		})
	}
}

// TestRootStaysInside leads paths out by symbolic links and dots.
func TestRootStaysInside(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	for name, target := range map[string]string{"abs": outside, "up": "../../../../../../.." + outside, "loop": "loop", "dangling": "/no/where"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	root := Root{fd}
	for _, path := range []string{"/abs/in", "/up/in", "/../.." + outside + "/in", "/a/b/c"} {
		got, err := root.Dir(path, 0o755)
		if err == nil {
			unix.Close(got)
		}
	}
	for _, path := range []string{"/loop/in", "/dangling", "/file/in", "/file"} {
		if got, err := root.Dir(path, 0o755); err == nil {
			unix.Close(got)
			t.Errorf("%s became a directory", path)
		}
	}
	if _, err := root.File("/a"); err == nil {
		t.Error("a directory passed for a file")
	}
	if entries, _ := os.ReadDir(outside); len(entries) > 0 {
		t.Errorf("made outside: %v", entries)
	}
	if _, err := os.Stat(filepath.Join(dir, "a/b/c")); err != nil {
		t.Error(err)
	}
}

// FuzzOptions: no list of options is anything but read or refused, and an
// overlay's layers are those that were written.
func FuzzOptions(f *testing.F) {
	for _, list := range []string{"", "ro,nosuid,size=64k", "rbind,rprivate,rro,tryidmap", `lowerdir=/a\:b:/c\\,upperdir=/u,workdir=/w`, "lowerdir=:,", `lowerdir=\`, "idmap=,ridmap"} {
		f.Add(list)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list := strings.Split(text, ",")
		if o, err := ParseOptions(list); err == nil && o.Set&o.Clear&^uint64(unix.MOUNT_ATTR__ATIME) != 0 {
			t.Errorf("%q sets and clears %x", text, o.Set&o.Clear)
		}
		_, _ = ParseOverlay(list)
		escaped := strings.NewReplacer(`\`, `\\`, `:`, `\:`).Replace(text)
		if parts := splitEscaped(escaped); text != "" && (len(parts) != 1 || parts[0] != text) {
			t.Errorf("%q, escaped, became %q", text, parts)
		}
	})
}
