package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/docker/go-units"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/disk"
	"github.com/berthcloud/berth/internal/qemu"
)

// Converter is what reads disks in other formats than raw.
type Converter struct {
	Launcher string // path of berth-qemu, which confines qemu-img
	User     uint32 // that qemu-img runs as
}

// ImportDisk makes a disk image of what r has, in the format that the options
// name. What the disk holds is never looked at to find out more. It returns the
// name. After a failure nothing of it is left.
func (s *Store) ImportDisk(ctx context.Context, r io.Reader, opt DiskOptions) (string, error) {
	name, err := s.importDisk(ctx, r, opt)
	return name, api.E("import", "", opt.Name, diskFull(err))
}

func (s *Store) importDisk(ctx context.Context, r io.Reader, opt DiskOptions) (string, error) {
	name, err := tagName(opt.Name)
	if err != nil {
		return "", err
	}
	ctx, done, err := s.work(ctx)
	if err != nil {
		return "", err
	}
	defer s.finish(ctx, done)
	dir, err := os.MkdirTemp(filepath.Join(s.root, "tmp"), "disk-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "file")
	counted := &layerReader{in: contextReader{ctx, r}, progress: func(n int64) { opt.Progress.report("disk", StageReading, n, 0) }}
	if opt.Format == OVA {
		var firmware api.Firmware
		firmware, err = s.spoolOVA(path, counted)
		if opt.Format = disk.VMDK; opt.Firmware == "" {
			opt.Firmware = firmware
		}
	} else {
		err = s.spool(path, counted)
	}
	if err != nil {
		return "", err
	}
	if path, err = s.toRaw(ctx, dir, path, opt); err != nil {
		return "", err
	}
	return Familiar(name), s.storeDisk(ctx, name, path, opt)
}

// errDiskTooLarge is the error of a disk beyond maxDisk.
func errDiskTooLarge(size int64) error {
	return api.E("", api.Exhausted, "", fmt.Errorf("a disk of %s is more than %s", units.BytesSize(float64(size)), units.BytesSize(maxDisk)))
}

// spool writes a stream to a file, with holes in the place of zeros.
func (s *Store) spool(path string, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = disk.CopySparse(f, io.LimitReader(r, maxDisk+1))
	return errors.Join(err, f.Close())
}

// toRaw returns the path of the raw disk that the file at path holds, which is
// another file in dir where the format is another.
func (s *Store) toRaw(ctx context.Context, dir, path string, opt DiskOptions) (string, error) {
	size, err := checkDiskFile(path, opt.Format)
	if err != nil {
		return "", err
	}
	if size > maxDisk {
		return "", errDiskTooLarge(size)
	}
	if opt.Format != disk.Raw {
		opt.Progress.report("disk", StageConverting, 0, size)
		if err := s.convertDisk(ctx, dir, qemu.Conversion{From: path, FromFormat: string(opt.Format)}, nil); err != nil {
			return "", api.E("", api.Corrupt, "", err)
		}
		raw := filepath.Join(dir, "raw")
		c := qemu.Conversion{From: path, FromFormat: string(opt.Format), To: raw, ToFormat: string(disk.Raw), MaxFile: size}
		if err := s.convertDisk(ctx, dir, c, opt.Progress); err != nil {
			return "", err
		}
		path = raw
	}
	// A disk has whole sectors; qemu-img reads files that have not as if they had.
	whole := (size + disk.Sector - 1) / disk.Sector * disk.Sector
	return path, os.Truncate(path, whole)
}

func checkDiskFile(path string, format disk.Format) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	size, err := disk.CheckHeader(f, info.Size(), format)
	return size, api.E("", api.Invalid, "", err)
}

// convertDisk runs qemu-img, confined. Its files in dir become its user's.
func (s *Store) convertDisk(ctx context.Context, dir string, c qemu.Conversion, progress Progress) error {
	var err error
	if c.Program, err = exec.LookPath("qemu-img"); err != nil {
		return api.E("", api.Unsupported, "", errors.New("the program qemu-img is missing; install the package qemu-utils"))
	}
	if s.opt.Converter.Launcher == "" {
		return api.E("", api.Unsupported, "", errors.New("this store converts no disks; convert it to raw before"))
	}
	c.UID = s.opt.Converter.User
	if c.To != "" {
		if err := os.WriteFile(c.To, nil, 0o600); err != nil {
			return err
		}
		if err := os.Chown(c.To, int(c.UID), int(c.UID)); err != nil {
			return err
		}
	}
	for _, path := range []string{c.From, c.Base} {
		if path == "" {
			continue
		}
		if err := os.Chown(path, int(c.UID), int(c.UID)); err != nil {
			return err
		}
	}
	p := c.Plan()
	if p.Program, err = qemu.Libraries(ctx, c.Program); err != nil {
		return err
	}
	plan, err := p.Encode()
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "plan.json")
	if err := os.WriteFile(file, plan, 0o600); err != nil {
		return err
	}
	run := newCommand(ctx, progress, dir, s.opt.Converter.Launcher, "machine", file)
	run.said.part = "qemu-img"
	run.Stdout = run.Stderr
	return run.explain(ctx, run.Run())
}

// storeDisk makes the raw disk at path content of the store under a name.
func (s *Store) storeDisk(ctx context.Context, name, path string, opt DiskOptions) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		err = f.Chown(os.Getuid(), os.Getgid())
	}
	if err != nil {
		f.Close()
		return err
	}
	config, err := opt.config(info.Size())
	if err != nil {
		f.Close()
		return err
	}
	opt.Progress.report("disk", StageConverting, info.Size(), info.Size())
	blob, err := s.place(ctx, f, diskRawType, nil)
	if err != nil {
		return err
	}
	desc, err := s.writeJSON(ctx, config, diskConfigType, nil)
	if err != nil {
		return err
	}
	err = s.writeManifest(ctx, name, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: diskArtifact, Config: desc, Layers: []ocispec.Descriptor{blob},
	})
	if err == nil {
		opt.Progress.report("disk", StageDone, info.Size(), info.Size())
	}
	return err
}

// ExportDisk writes the disk of a disk image in a format, OVA too.
func (s *Store) ExportDisk(ctx context.Context, name string, format disk.Format, w io.Writer) error {
	return api.E("export image", "", name, diskFull(s.exportDisk(ctx, name, format, w)))
}

func (s *Store) exportDisk(ctx context.Context, name string, format disk.Format, w io.Writer) error {
	img, err := s.Resolve(ctx, name)
	if err != nil {
		return err
	}
	if img.Disk == nil {
		return api.E("", api.Invalid, "", errors.New("it is no disk image, and has no format but that of an archive: leave --format out"))
	}
	if format == OVA && img.Arch != "amd64" {
		return api.E("", api.Unsupported, "", fmt.Errorf("an appliance cannot say that it is for %s, and its readers take it for amd64: choose another format", img.Arch))
	}
	path, content := img.Disk.Path, format
	if format == OVA {
		content = disk.VMDK
	}
	if format != disk.Raw {
		dir, err := os.MkdirTemp(filepath.Join(s.root, "tmp"), "disk-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		// qemu-img opens its files by name, as a user who may not read the store's.
		from, to := filepath.Join(dir, "raw"), filepath.Join(dir, "file")
		if err := disk.Clone(from, path); err != nil {
			return err
		}
		c := qemu.Conversion{From: from, FromFormat: string(disk.Raw), To: to, ToFormat: string(content), MaxFile: img.Disk.Size + img.Disk.Size/16 + 64<<20}
		if err := s.convertDisk(ctx, dir, c, nil); err != nil {
			return err
		}
		path = to
	}
	if format == OVA {
		return writeOVA(ctx, w, applianceName(Familiar(name)), path, *img.Disk)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyBuffer(onlyWriter{w}, contextReader{ctx, f}, make([]byte, 1<<20))
	return err
}

// prepareDisk makes the disk ready of a disk image that has come.
func (s *Store) prepareDisk(ctx context.Context, m *ocispec.Manifest, progress Progress) error {
	if _, err := s.diskConfigOf(ctx, m); err != nil {
		return err
	}
	if inChunks(m) {
		_, err := s.wholeDisk(ctx, m, progress)
		if notFound(err) {
			return incomplete(err)
		}
		return err
	}
	if !s.keep(ctx, m.Layers[0].Digest) {
		return nil // what is missing is its reader's to tell
	}
	return disk.Dig(s.blobPath(m.Layers[0].Digest.String())) // it came as a stream
}
