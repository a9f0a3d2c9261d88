package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// archiveImage is the name of the image in the archive.
const archiveImage = "bench-archive"

// archives compares reading and writing the archive of an image of 300 MB in 10,000 files.
func (b *bench) archives(n int) measurement {
	const load, save = "load of an image of 300 MB in 10,000 files", "save of it to a file"
	return measurement{load, func(ctx context.Context) (rows []row, err error) {
		dir, err := os.MkdirTemp(b.dir, "archive")
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		in, out := filepath.Join(dir, "in.tar"), filepath.Join(dir, "out.tar")
		if err := writeArchive(in); err != nil {
			return nil, err
		}
		loading := comparison{name: load, unit: "ms", runs: n, targets: []target{fasterThan(2, "docker")}}
		saving := comparison{name: save, unit: "ms", runs: n, targets: []target{fasterThan(2, "docker")}}
		for _, engine := range []*server{b.daemon, b.dockerd} {
			remove := func() error { return engine.command(context.WithoutCancel(ctx), "rmi", archiveImage) }
			loading.contenders = append(loading.contenders, contender{name: engine.label, missing: engine.why, run: func(ctx context.Context) (float64, error) {
				ms, err := timed(func() error { return engine.command(ctx, "load", "-q", "-i", in) })
				return ms, errors.Join(err, remove())
			}})
			saving.contenders = append(saving.contenders, contender{name: engine.label, missing: engine.why, run: func(ctx context.Context) (float64, error) {
				if err := engine.command(ctx, "load", "-q", "-i", in); err != nil {
					return 0, err
				}
				ms, err := timed(func() error { return engine.command(ctx, "save", "-o", out, archiveImage) })
				return ms, errors.Join(err, remove(), os.Remove(out))
			}})
		}
		for _, c := range []comparison{loading, saving} {
			more, err := c.measure(ctx)
			if err != nil {
				return nil, err
			}
			rows = append(rows, more...)
		}
		return rows, nil
	}}
}

// writeArchive writes the archive as docker save does.
func writeArchive(path string) error {
	layer, err := os.CreateTemp(filepath.Dir(path), "layer")
	if err != nil {
		return err
	}
	defer layer.Close()
	hash := sha256.New()
	if err := writeFiles(io.MultiWriter(layer, hash), 10_000, 1); err != nil {
		return err
	}
	id := fmt.Sprintf("%x", hash.Sum(nil))
	config, _ := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{"Cmd": []string{"sh"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + id}},
	})
	name := fmt.Sprintf("%x.json", sha256.Sum256(config))
	list, _ := json.Marshal([]map[string]any{{"Config": name, "RepoTags": []string{archiveImage + ":latest"}, "Layers": []string{id + "/layer.tar"}}})
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	size, err := layer.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	add := func(name string, size int64, content io.Reader) error {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size}); err != nil {
			return err
		}
		_, err := io.Copy(w, content)
		return err
	}
	return errors.Join(add(id+"/layer.tar", size, io.NewSectionReader(layer, 0, size)), add(name, int64(len(config)), bytes.NewReader(config)),
		add("manifest.json", int64(len(list)), bytes.NewReader(list)), w.Close())
}

// writeFiles writes a tree of files of 30 kB: a half of each is text.
func writeFiles(out io.Writer, many int, seed byte) error {
	w := tar.NewWriter(out)
	content := make([]byte, 30_000)
	random := rand.NewChaCha8([32]byte{seed})
	for i := range many {
		if i%100 == 0 {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: fmt.Sprintf("d%d/", i/100), Mode: 0o755}); err != nil {
				return err
			}
		}
		random.Read(content)
		for j := range content[:len(content)/2] {
			content[j] = 'a' + content[j]%16
		}
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("d%d/f%d", i/100, i), Mode: 0o644, Size: int64(len(content))}); err != nil {
			return err
		}
		if _, err := w.Write(content); err != nil {
			return err
		}
	}
	return w.Close()
}
