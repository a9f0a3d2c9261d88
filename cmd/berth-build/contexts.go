package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session/upload/uploadprovider"
	"github.com/tonistiigi/fsutil"

	"github.com/berthcloud/berth/client"
)

// The names of the directories that are shown to the daemon.
const (
	localContext    = "context"
	localDockerfile = "dockerfile"
)

// addContexts says where the build's files come from. cleanup is to be called in any
// case.
func addContexts(opt *bkclient.SolveOpt, b *client.Build) (cleanup func(), err error) {
	opt.LocalMounts = map[string]fsutil.FS{}
	cleanup = func() {}
	tmp := func() (string, error) {
		dir, err := os.MkdirTemp("", "berth-build")
		if err == nil {
			cleanup = func() { os.RemoveAll(dir) }
		}
		return dir, err
	}
	switch {
	case b.Context == "-" && b.File == "-":
		return cleanup, errors.New("context and Dockerfile cannot both be standard input")
	case b.Context == "-":
		err = fromStdin(opt, b, tmp)
	case remote(b.Context):
		opt.FrontendAttrs["context"] = b.Context
		if b.File != "" {
			opt.FrontendAttrs["filename"] = b.File
		}
	default:
		err = fromDirectory(opt, b, tmp)
	}
	if err != nil {
		return cleanup, err
	}
	for _, name := range sortedKeys(b.Contexts) {
		if err := addNamed(opt, name, b.Contexts[name]); err != nil {
			return cleanup, fmt.Errorf("--build-context %s: %w", name, err)
		}
	}
	return cleanup, nil
}

// remote reports whether a context is for the daemon to fetch.
func remote(context string) bool {
	for _, prefix := range []string{"http://", "https://", "git://", "ssh://", "git@", "github.com/"} {
		if strings.HasPrefix(context, prefix) {
			return true
		}
	}
	return false
}

// show lets the daemon read a directory.
func show(opt *bkclient.SolveOpt, name, dir string) error {
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is not a directory", dir)
	}
	if err != nil {
		return err
	}
	opt.LocalMounts[name], err = fsutil.NewFS(dir)
	return err
}

func fromDirectory(opt *bkclient.SolveOpt, b *client.Build, tmp func() (string, error)) error {
	if err := show(opt, localContext, b.Context); err != nil {
		return err
	}
	file := b.File
	if file == "" {
		file = filepath.Join(b.Context, "Dockerfile")
	}
	if file == "-" {
		dir, err := tmp()
		if err != nil {
			return err
		}
		return writeDockerfile(opt, dir, os.Stdin)
	}
	if _, err := os.Stat(file); err != nil {
		return fmt.Errorf("there is no Dockerfile: %w; name another with -f", err)
	}
	opt.FrontendAttrs["filename"] = filepath.Base(file)
	return show(opt, localDockerfile, filepath.Dir(file))
}

// writeDockerfile shows a Dockerfile that is read from r.
func writeDockerfile(opt *bkclient.SolveOpt, dir string, r io.Reader) error {
	f, err := os.Create(filepath.Join(dir, "Dockerfile"))
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	opt.FrontendAttrs["filename"] = "Dockerfile"
	return show(opt, localDockerfile, dir)
}

// fromStdin takes a Dockerfile without a context, or a tar archive of a context, from
// standard input.
func fromStdin(opt *bkclient.SolveOpt, b *client.Build, tmp func() (string, error)) error {
	in := bufio.NewReader(os.Stdin)
	head, err := in.Peek(tarMagicEnd)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if archive(head) {
		up := uploadprovider.New()
		opt.FrontendAttrs["context"] = up.Add(io.NopCloser(in))
		opt.Session = append(opt.Session, up)
		if b.File != "" {
			opt.FrontendAttrs["filename"] = b.File
		}
		return nil
	}
	if b.File != "" {
		return errors.New("standard input is a Dockerfile and no archive, so -f has no meaning")
	}
	dir, err := tmp()
	if err != nil {
		return err
	}
	empty := filepath.Join(dir, "context")
	if err := os.Mkdir(empty, 0o700); err != nil {
		return err
	}
	if err := show(opt, localContext, empty); err != nil {
		return err
	}
	return writeDockerfile(opt, dir, in)
}

// tarMagicEnd is where the magic of a tar header ends.
const tarMagicEnd = 262

// archive reports whether what begins so is a tar archive, compressed or not.
func archive(head []byte) bool {
	for _, magic := range []string{"\x1f\x8b", "BZh", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} {
		if strings.HasPrefix(string(head), magic) {
			return true
		}
	}
	return len(head) == tarMagicEnd && string(head[257:]) == "ustar"
}

// addNamed adds a further context, that a Dockerfile has as FROM or COPY --from.
func addNamed(opt *bkclient.SolveOpt, name, from string) error {
	if remote(from) || strings.HasPrefix(from, "docker-image://") || strings.HasPrefix(from, "target:") {
		opt.FrontendAttrs["context:"+name] = from
		return nil
	}
	if strings.HasPrefix(from, "oci-layout://") {
		return errors.New("an image layout cannot be a context; read it with berth image load and name the image, as in docker-image://NAME")
	}
	opt.FrontendAttrs["context:"+name] = "local:" + name
	return show(opt, name, from)
}
