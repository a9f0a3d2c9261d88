package cli

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/client"
	"github.com/berthcloud/berth/cmd/berth/internal/files"
)

func newCopyCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "cp SOURCE TARGET",
		Short: "Copy files between an instance and the host",
		Long: exits(`Copy files or directories between an instance and the host: one of SOURCE and
TARGET is INSTANCE:PATH, the other a path of the host or '-', a tar stream on
standard input or output.

A directory is copied with all it holds. Where TARGET is an existing directory
the copy is made in it, else it gets TARGET's name. SOURCE/. stands for what
the directory holds, without itself.`),
		Example: "  berth cp web:/etc/hosts .\n  berth cp ./site web:/srv\n  berth cp web:/var/log - | tar t",
		Args:    args(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runCopy(cmd.Context(), g, args[0], args[1])
		},
	}
}

// place is one end of a copy.
type place struct {
	instance string // "" for the host
	path     string
}

// parsePlace reads INSTANCE:PATH or a path of the host. What begins with / or
// . is always a path of the host.
func parsePlace(s string) place {
	if name, p, ok := strings.Cut(s, ":"); ok && name != "" && !strings.Contains(name, "/") && !strings.HasPrefix(s, ".") {
		return place{name, p}
	}
	return place{path: s}
}

func runCopy(ctx context.Context, g *global, source, target string) error {
	from, to := parsePlace(source), parsePlace(target)
	switch {
	case from.path == "" || to.path == "":
		return usage(errors.New("a path is empty; write INSTANCE:PATH"))
	case from.instance != "" && to.instance != "":
		return usage(errors.New("cannot copy from instance to instance; copy to the host first, or pipe 'berth cp A:PATH -' into 'berth cp - B:DIR'"))
	case from.instance == "" && to.instance == "":
		return usage(errors.New("neither end is an instance; write one as INSTANCE:PATH"))
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	if from.instance != "" {
		return copyOut(ctx, g, c, from, to.path)
	}
	return copyIn(ctx, g, c, from.path, to)
}

// inInstance makes a path in an instance absolute: it is relative to /.
func inInstance(p string) string {
	slash := strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.")
	clean := path.Clean("/" + p)
	if slash && clean != "/" {
		clean += "/"
	}
	return clean
}

// copyOut copies from an instance to the host.
func copyOut(ctx context.Context, g *global, c *client.Client, from place, target string) error {
	source := path.Clean(inInstance(from.path))
	if target == "-" {
		return c.CopyOut(ctx, from.instance, source, g.Out)
	}
	contents := strings.HasSuffix(from.path, "/.") || source == "/"
	dir, rename, err := hostTarget(target, path.Base(source), contents)
	if err != nil {
		return err
	}
	r, w := io.Pipe()
	unpacked := make(chan error, 1)
	go func() {
		err := files.Unpack(r, dir, path.Base(source), rename)
		if err == nil {
			_, err = io.Copy(io.Discard, r) // the padding after the last entry
		}
		r.CloseWithError(err) // ends the request, where the disk is full
		unpacked <- err
	}()
	err = c.CopyOut(ctx, from.instance, source, w)
	w.CloseWithError(err)
	if unpackErr := <-unpacked; err == nil || errors.Is(err, unpackErr) {
		return unpackErr
	}
	return err
}

// hostTarget decides where a copy from an instance goes: the directory it is
// unpacked in, and the name its top gets ("." for none: the contents go
// straight into dir).
func hostTarget(target, base string, contents bool) (dir, rename string, err error) {
	st, err := os.Stat(target)
	switch {
	case err == nil && st.IsDir() && contents:
		return target, ".", nil
	case err == nil && st.IsDir():
		return target, base, nil
	case err == nil && contents:
		return "", "", fmt.Errorf("cp: %s is not a directory; name one", target)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", "", fmt.Errorf("cp: %w", err)
	case err != nil && strings.HasSuffix(target, "/") && !contents:
		return "", "", fmt.Errorf("cp: the directory %s does not exist; make it first", target)
	}
	target = filepath.Clean(target)
	return filepath.Dir(target), filepath.Base(target), nil
}

// copyIn copies from the host to an instance.
func copyIn(ctx context.Context, g *global, c *client.Client, source string, to place) error {
	if source == "-" {
		return c.CopyIn(ctx, to.instance, inInstance(to.path), g.In)
	}
	if _, err := os.Lstat(source); err != nil {
		return fmt.Errorf("cp: %w", err)
	}
	target := inInstance(to.path)
	isDir, err := instanceDir(ctx, c, to.instance, target)
	if err != nil {
		return err
	}
	contents := strings.HasSuffix(source, "/.") || source == "."
	abs, err := filepath.Abs(source)
	if err != nil {
		return err
	}
	dir, name := target, filepath.Base(abs)
	switch {
	case contents && isDir:
		name = "."
	case !isDir && strings.HasSuffix(target, "/") && !contents:
		return fmt.Errorf("cp: the directory %s does not exist in %s; make it first", target, to.instance)
	case !isDir:
		clean := path.Clean(target)
		dir, name = path.Dir(clean), path.Base(clean)
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(files.Pack(w, abs, name)) }()
	err = c.CopyIn(ctx, to.instance, path.Clean(dir), r)
	r.CloseWithError(errors.New("the copy has ended"))
	return err
}

// errEnough ends a copy out whose first header says all.
var errEnough = errors.New("enough")

// maxLinks bounds how many symbolic links are followed in a row (MAXSYMLINKS).
const maxLinks = 40

// instanceDir reports whether a path is a directory of the instance, or a
// symbolic link to one. A missing path is not.
func instanceDir(ctx context.Context, c *client.Client, ref, p string) (bool, error) {
	p = path.Clean(p)
	for range maxLinks {
		if p == "/" {
			return true, nil
		}
		h, err := header(ctx, c, ref, p)
		switch {
		case api.IsKind(err, api.NotFound) && exists(ctx, c, ref):
			return false, nil
		case err != nil:
			return false, err
		case h.Typeflag != tar.TypeSymlink:
			return h.Typeflag == tar.TypeDir, nil
		case path.IsAbs(h.Linkname):
			p = path.Clean(h.Linkname)
		default:
			p = path.Join(path.Dir(p), h.Linkname)
		}
	}
	return false, fmt.Errorf("cp: %s: too many symbolic links", p)
}

// exists tells an instance that lacks a path from one that is not there.
func exists(ctx context.Context, c *client.Client, ref string) bool {
	_, err := c.Get(ctx, ref)
	return err == nil
}

// header returns the first header of a copy of p, and gives up the rest.
func header(ctx context.Context, c *client.Client, ref, p string) (*tar.Header, error) {
	r, w := io.Pipe()
	type result struct {
		h   *tar.Header
		err error
	}
	read := make(chan result, 1)
	go func() {
		h, err := tar.NewReader(r).Next()
		r.CloseWithError(errEnough)
		read <- result{h, err}
	}()
	err := c.CopyOut(ctx, ref, p, w)
	w.CloseWithError(err) // nil: the end
	got := <-read
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	return got.h, got.err
}
