package cli_test

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/rest"
)

// filesystem is a backend with one instance, "box", whose root filesystem is a
// directory of the host.
type filesystem struct {
	rest.Records
	rest.Insides
	root string
}

func (f filesystem) Get(_ context.Context, ref string) (api.Instance, error) {
	if ref != "box" {
		return api.Instance{}, api.E("", api.NotFound, ref, errors.New("no such instance; 'berth ps -a' lists all"))
	}
	return api.Instance{ID: ref, Name: ref}, nil
}

// CopyOut packs with tar, which names entries as a driver does.
func (f filesystem) CopyOut(ctx context.Context, ref, p string, w io.Writer) error {
	if _, err := f.Get(ctx, ref); err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Join(f.root, p)); err != nil {
		return api.E("cp", api.NotFound, p, errors.New("no such file or directory in the instance"))
	}
	cmd := exec.CommandContext(ctx, "tar", "c", "-C", filepath.Join(f.root, path.Dir(p)), path.Base(p))
	cmd.Stdout = w
	return cmd.Run()
}

// CopyIn unpacks with tar.
func (f filesystem) CopyIn(ctx context.Context, ref, dir string, r io.Reader) error {
	if _, err := f.Get(ctx, ref); err != nil {
		return err
	}
	if st, err := os.Stat(filepath.Join(f.root, dir)); err != nil || !st.IsDir() {
		return api.E("cp", api.NotFound, dir, errors.New("no such directory in the instance"))
	}
	cmd := exec.CommandContext(ctx, "tar", "x", "-C", filepath.Join(f.root, dir))
	cmd.Stdin = r
	return cmd.Run()
}

// plant makes files: a name that ends in / is a directory, "a -> b" a link,
// anything else a file that holds its own name.
func plant(t *testing.T, root string, names ...string) {
	t.Helper()
	for _, name := range names {
		name, link, linked := strings.Cut(name, " -> ")
		p := filepath.Join(root, name)
		err := os.MkdirAll(filepath.Dir(p), 0o755)
		switch {
		case err != nil:
		case linked:
			err = os.Symlink(link, p)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(p, 0o755)
		default:
			err = os.WriteFile(p, []byte(filepath.Base(name)), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// tree lists files with what they hold.
func tree(t *testing.T, root string) string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		if d.Type().IsRegular() {
			text, err := os.ReadFile(p)
			list = append(list, fmt.Sprintf("%s=%s", rel, text))
			return err
		}
		list = append(list, rel)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func TestCopy(t *testing.T) {
	for _, c := range []struct {
		name         string
		host, inside []string // planted
		from, to     string
		want         string // of the host, for a copy out; of the instance, for a copy in
		says         string // the error
	}{
		{name: "file out, new name", inside: []string{"etc/f"}, from: "box:/etc/f", to: "g", want: "g=f"},
		{name: "file out, into a directory", host: []string{"d/"}, inside: []string{"etc/f"}, from: "box:etc/f", to: "d", want: "d/f=f"},
		{name: "file out, over a file", host: []string{"g"}, inside: []string{"f"}, from: "box:/f", to: "g", want: "g=f"},
		{name: "directory out, new name", inside: []string{"d/a", "d/e/b"}, from: "box:/d", to: "x", want: "x/a=a x/e/b=b"},
		{name: "directory out, into a directory", host: []string{"x/"}, inside: []string{"d/a"}, from: "box:/d/", to: "x", want: "x/d/a=a"},
		{name: "what a directory holds", host: []string{"x/"}, inside: []string{"d/a"}, from: "box:/d/.", to: "x", want: "x/a=a"},
		{name: "out, not there", from: "box:/nope", to: "x", says: "no such file or directory in the instance"},
		{name: "out, no such directory", inside: []string{"f"}, from: "box:/f", to: "x/", says: "the directory x/ does not exist; make it first"},
		{name: "out of nothing", from: "nope:/f", to: "x", says: "nope: no such instance"},

		{name: "file in, new name", host: []string{"f"}, inside: []string{"d/"}, from: "f", to: "box:/d/g", want: "d/g=f"},
		{name: "file in, into a directory", host: []string{"f"}, inside: []string{"d/"}, from: "./f", to: "box:/d", want: "d/f=f"},
		{name: "file in, over a file", host: []string{"f"}, inside: []string{"d/g"}, from: "f", to: "box:/d/g", want: "d/g=f"},
		{name: "file in, into the root", host: []string{"f"}, from: "f", to: "box:/", want: "f=f"},
		{name: "file in, through a link", host: []string{"f"}, inside: []string{"d/", "l -> d"}, from: "f", to: "box:/l", want: "d/f=f l"},
		{name: "directory in, new name", host: []string{"s/a", "s/b/c"}, inside: []string{"d/"}, from: "s", to: "box:/d/t", want: "d/t/a=a d/t/b/c=c"},
		{name: "directory in, into a directory", host: []string{"s/a"}, inside: []string{"d/"}, from: "s", to: "box:/d", want: "d/s/a=a"},
		{name: "what a directory holds, in", host: []string{"s/a"}, inside: []string{"d/"}, from: "s/.", to: "box:/d", want: "d/a=a"},
		{name: "in, not there", from: "nope", to: "box:/", says: "nope: no such file or directory"},
		{name: "in, no such directory", host: []string{"f"}, from: "f", to: "box:/d/", says: "the directory /d/ does not exist in box; make it first"},
		{name: "in, no such parent", host: []string{"f"}, from: "f", to: "box:/d/e/g", says: "no such directory in the instance"},
		{name: "into nothing", host: []string{"f"}, from: "f", to: "nope:/", says: "nope"},

		{name: "neither", from: "a", to: "b", says: "neither end is an instance"},
		{name: "both", from: "a:/", to: "b:/", says: "cannot copy from instance to instance"},
	} {
		t.Run(c.name, func(t *testing.T) {
			host, inside := t.TempDir(), t.TempDir()
			plant(t, host, c.host...)
			plant(t, inside, c.inside...)
			run := berthAt(t, host, filesystem{root: inside}, "cp", c.from, c.to)
			out, err := run.CombinedOutput()
			if c.says != "" {
				if err == nil || !strings.Contains(string(out), c.says) || strings.Count(string(out), "\n") != 1 {
					t.Errorf("%v: %s; want %q", err, out, c.says)
				}
				return
			}
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			changed := inside
			if strings.HasPrefix(c.from, "box:") {
				changed = host
			}
			if got := tree(t, changed); got != c.want {
				t.Errorf("there is %q; want %q", got, c.want)
			}
		})
	}
}

func TestCopyAsTar(t *testing.T) {
	host, inside := t.TempDir(), t.TempDir()
	plant(t, inside, "d/a", "e/")
	b := filesystem{root: inside}
	out, err := berthAt(t, host, b, "cp", "box:/d", "-").Output()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for r := tar.NewReader(strings.NewReader(string(out))); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
	if got := strings.Join(names, " "); got != "d/ d/a" {
		t.Errorf("the stream holds %s", got)
	}
	in := berthAt(t, host, b, "cp", "-", "box:/e")
	in.Stdin = strings.NewReader(string(out))
	if text, err := in.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if got := tree(t, inside); got != "d/a=a e/d/a=a" {
		t.Errorf("the instance holds %q", got)
	}
}

// berthAt is a berth command in a directory, with a daemon of a backend.
func berthAt(t *testing.T, dir string, f filesystem, args ...string) *exec.Cmd {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := rest.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	server := rest.New(rest.Backend{Records: f, Insides: f}, slog.New(slog.DiscardHandler))
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() {
		if err := server.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "BERTH_TEST_MAIN=1", "BERTH_HOST=unix://"+socket)
	return cmd
}
