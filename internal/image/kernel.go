package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/disk"
)

// A kernel image is an OCI artifact with four blobs: the uncompressed kernel (of
// arm64 the Image, which is so already), the tree of its modules, its
// configuration, and the kernel as bootloaders start it, which those made before it was
// wanted lack, and those of arm64, where it is the first.
const (
	kernelArtifact = "application/vnd.berth.kernel.v1"
	vmlinuxType    = "application/vnd.berth.kernel.vmlinux.v1"
	modulesType    = "application/vnd.berth.kernel.modules.v1.tar+zstd"
	configType     = "application/vnd.berth.kernel.config.v1"
	vmlinuzType    = "application/vnd.berth.kernel.vmlinuz.v1"

	releaseAnnotation = "cloud.berth.kernel.release"
	archAnnotation    = "cloud.berth.kernel.architecture"
)

// Kernel is a guest kernel, extracted for use.
type Kernel struct {
	Name    string // as in kernel/debian-cloud:latest
	Digest  string // of the manifest
	Arch    string // as GOARCH
	Release string // as uname -r says it
	Vmlinux string // path of the uncompressed kernel: of amd64 ELF with a PVH entry
	Modules string // path of the directory lib/modules/RELEASE
	Config  string // path of the kernel's configuration
	Vmlinuz string // path of the kernel as a bootloader starts it; "" where the image lacks it
}

// flavors are the kernels of Debian: their packages without the architecture, and
// what they are called here.
var flavors = map[string]struct{ pkg, name string }{
	"cloud":    {"linux-image-cloud-", "kernel/debian-cloud"},
	"standard": {"linux-image-", "kernel/debian-standard"},
}

// BootstrapKernel makes a kernel image from Debian's kernel package of a
// flavor: cloud (small, for virtual devices) or standard (all drivers), for an
// architecture ("" for the host's). The package is downloaded from where the host's
// apt gets its packages, and is not installed. It returns the image's name, which
// has another architecture than the host's as its tag.
func (s *Store) BootstrapKernel(ctx context.Context, flavor, arch string, progress Progress) (string, error) {
	const op = "make kernel"
	if flavor == "" {
		flavor = "cloud"
	}
	f, ok := flavors[flavor]
	if !ok {
		return "", api.E(op, api.Invalid, flavor, errors.New("no such flavor; there are cloud and standard"))
	}
	name, err := taggedFor(f.name, arch)
	if err != nil {
		return "", api.E(op, "", flavor, err)
	}
	if arch == "" {
		arch = runtime.GOARCH
	}
	ctx, done, err := s.work(ctx)
	if err != nil {
		return "", api.E(op, "", flavor, err)
	}
	defer s.finish(ctx, done)
	dir, err := os.MkdirTemp(filepath.Join(s.root, "tmp"), "kernel-")
	if err != nil {
		return "", api.E(op, "", flavor, err)
	}
	defer os.RemoveAll(dir)
	deb, err := downloadKernel(ctx, dir, f.pkg+arch, arch, progress)
	if err != nil {
		return "", api.E(op, "", flavor, err)
	}
	return name, api.E(op, "", flavor, diskFull(s.importKernel(ctx, deb, name, arch, progress)))
}

var kernelPackage = regexp.MustCompile(`(?m)^\s*(?:Pre)?Depends: (linux-image-\S+)$`)

// downloadKernel downloads the package that the metapackage meta stands for at
// present, and returns its path.
func downloadKernel(ctx context.Context, dir, meta, arch string, progress Progress) (string, error) {
	apt, err := newAPT(ctx, dir, arch, progress)
	if err != nil {
		return "", err
	}
	out, err := apt.depends(ctx, meta)
	if err != nil {
		return "", err
	}
	m := kernelPackage.FindStringSubmatch(out)
	if m == nil {
		return "", api.E("", api.NotFound, meta, errors.New("apt knows no such package; run apt-get update, or add Debian's sources to apt"))
	}
	return apt.download(ctx, m[1], progress)
}

// importKernel stores the content of a kernel package.
func (s *Store) importKernel(ctx context.Context, deb, name, arch string, progress Progress) error {
	k := &kernelReader{s: s, ctx: ctx, arch: arch}
	defer k.close()
	unpack := newCommand(ctx, progress, "", "dpkg-deb", "--fsys-tarfile", deb)
	progress.report(filepath.Base(deb), StageConverting, 0, 0)
	if err := unpack.stream(ctx, k.read); err != nil {
		return err
	}
	m, err := k.manifest()
	if err != nil {
		return err
	}
	full, err := tagName(name)
	if err != nil {
		return err
	}
	if err := s.writeManifest(ctx, full, m); err != nil {
		return err
	}
	progress.report(filepath.Base(deb), StageDone, 0, 0)
	return nil
}

// kernelReader takes the parts of a kernel package out of its archive.
type kernelReader struct {
	s       *Store
	ctx     context.Context
	arch    string
	release string
	config  []byte
	vmlinux ocispec.Descriptor
	vmlinuz []ocispec.Descriptor // one, or none where it is vmlinux

	modules *blobWriter // zstd of a tar, being written
	packed  *zstd.Encoder
	tar     *tar.Writer
}

func (k *kernelReader) close() {
	if k.modules != nil {
		k.modules.abandon()
	}
	if k.packed != nil {
		k.packed.Close()
	}
}

// maxKernelFile bounds one file of a kernel package in bytes.
const maxKernelFile = 512 << 20

func (k *kernelReader) read(r io.Reader) (err error) {
	if k.modules, err = k.s.newBlob(k.ctx); err != nil {
		return err
	}
	if k.packed, err = zstd.NewWriter(k.modules, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1)); err != nil {
		return err
	}
	k.tar = tar.NewWriter(k.packed)
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return k.finishModules()
		}
		if err != nil {
			return damaged("tar", err)
		}
		if h.Size > maxKernelFile {
			return api.E("", api.Invalid, "", fmt.Errorf("%.200q has %d bytes", h.Name, h.Size))
		}
		if err := k.entry(h, in); err != nil {
			return err
		}
	}
}

func (k *kernelReader) entry(h *tar.Header, r io.Reader) (err error) {
	name := strings.TrimPrefix(filepath.Clean("/"+h.Name), "/")
	name = strings.TrimPrefix(name, "usr/") // Debian 13 and later
	switch {
	case h.Typeflag == tar.TypeReg && strings.HasPrefix(name, "boot/vmlinuz-"):
		k.release = strings.TrimPrefix(name, "boot/vmlinuz-")
		k.vmlinux, err = k.storeVmlinux(r)
		return err
	case h.Typeflag == tar.TypeReg && strings.HasPrefix(name, "boot/config-"):
		k.config, err = io.ReadAll(r)
		return err
	case strings.HasPrefix(name, "lib/modules/") && (h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeDir):
		out := tar.Header{Typeflag: h.Typeflag, Name: name, Size: h.Size, Mode: h.Mode, ModTime: h.ModTime, Format: tar.FormatPAX}
		if err := k.tar.WriteHeader(&out); err != nil {
			return err
		}
		_, err := io.Copy(k.tar, r)
		return err
	}
	return nil
}

func (k *kernelReader) storeVmlinux(r io.Reader) (ocispec.Descriptor, error) {
	fail := func(err error) (ocispec.Descriptor, error) { return ocispec.Descriptor{}, err }
	packed, err := k.s.temp("vmlinuz-*")
	if err != nil {
		return fail(err)
	}
	defer discard(packed)
	if _, err := io.Copy(packed, r); err != nil {
		return fail(err)
	}
	if k.arch != "amd64" {
		if err := disk.CheckImage(packed); err != nil {
			return fail(api.E("", api.Corrupt, "", fmt.Errorf("the package's kernel: %w", err)))
		}
		return k.s.writeBlob(k.ctx, io.NewSectionReader(packed, 0, maxKernelFile), vmlinuxType, nil)
	}
	vmlinuz, err := k.s.writeBlob(k.ctx, io.NewSectionReader(packed, 0, maxKernelFile), vmlinuzType, nil)
	if err != nil {
		return fail(err)
	}
	k.vmlinuz = []ocispec.Descriptor{vmlinuz}
	f, err := k.s.temp("vmlinux-*")
	if err != nil {
		return fail(err)
	}
	if err := disk.ExtractVmlinux(f, packed); err != nil {
		discard(f)
		return fail(api.E("", api.Corrupt, "", fmt.Errorf("the package's kernel: %w", err)))
	}
	return k.s.place(k.ctx, f, vmlinuxType, nil)
}

func (k *kernelReader) finishModules() error {
	if err := k.tar.Close(); err != nil {
		return err
	}
	return k.packed.Close()
}

// manifest stores the remaining parts and describes them all.
func (k *kernelReader) manifest() (m ocispec.Manifest, err error) {
	if k.release == "" || len(k.config) == 0 {
		return m, api.E("", api.Corrupt, "", errors.New("the package has no kernel or no configuration"))
	}
	modules, err := k.modules.commit(modulesType, nil)
	if err != nil {
		return m, err
	}
	config, err := k.s.writeBlob(k.ctx, bytes.NewReader(k.config), configType, nil)
	if err != nil {
		return m, err
	}
	empty, err := k.s.writeBlob(k.ctx, bytes.NewReader(ocispec.DescriptorEmptyJSON.Data), ocispec.MediaTypeEmptyJSON, nil)
	if err != nil {
		return m, err
	}
	return ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: kernelArtifact, Config: empty, Layers: append([]ocispec.Descriptor{k.vmlinux, modules, config}, k.vmlinuz...),
		Annotations: map[string]string{releaseAnnotation: k.release, archAnnotation: k.arch},
	}, nil
}

var validRelease = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._+~-]{0,127}$`)

// Kernel returns a kernel, extracted on its first use. The name may leave out
// "kernel/". The files stay where they are as long as the image has a name.
func (s *Store) Kernel(ctx context.Context, name string) (Kernel, error) {
	const op = "find kernel"
	ctx = s.context(ctx)
	if !strings.Contains(name, "/") {
		name = "kernel/" + name
	}
	rec, err := s.lookup(ctx, name)
	if api.IsKind(err, api.NotFound) {
		return Kernel{}, api.E(op, api.NotFound, name, errors.New("no such kernel here; make it with berth kernel"))
	} else if err != nil {
		return Kernel{}, api.E(op, "", "", err)
	}
	desc, m, err := s.manifest(ctx, rec.Target)
	if err != nil {
		return Kernel{}, api.E(op, "", name, err)
	}
	release := m.Annotations[releaseAnnotation]
	if m.ArtifactType != kernelArtifact || !validRelease.MatchString(release) || len(m.Layers) != 3 && len(m.Layers) != 4 {
		return Kernel{}, api.E(op, api.Invalid, name, errors.New("it is no kernel image"))
	}
	dir := filepath.Join(s.root, "kernels", desc.Digest.Encoded()[:32])
	k := Kernel{
		Name: Familiar(rec.Name), Digest: desc.Digest.String(), Release: release, Arch: m.Annotations[archAnnotation],
		Vmlinux: filepath.Join(dir, "vmlinux"), Modules: filepath.Join(dir, "lib", "modules", release), Config: filepath.Join(dir, "config"),
	}
	if k.Arch == "" {
		k.Arch = runtime.GOARCH // made before there were others
	}
	if len(m.Layers) == 4 {
		k.Vmlinuz = s.blobPath(m.Layers[3].Digest.String())
	}
	if k.complete(m) {
		return k, nil
	}
	return k, api.E(op, "", name, diskFull(s.extractKernel(ctx, k, dir, m)))
}

// complete reports whether the cache has the kernel whole.
func (k Kernel) complete(m *ocispec.Manifest) bool {
	vmlinux, err := os.Stat(k.Vmlinux)
	if err != nil || vmlinux.Size() != m.Layers[0].Size {
		return false
	}
	config, err := os.Stat(k.Config)
	if err != nil || config.Size() != m.Layers[2].Size {
		return false
	}
	modules, err := os.Stat(k.Modules)
	return err == nil && modules.IsDir()
}

// extractKernel fills the cache directory dir, which appears in one step.
func (s *Store) extractKernel(ctx context.Context, k Kernel, dir string, m *ocispec.Manifest) error {
	tmp, err := os.MkdirTemp(filepath.Join(s.root, "tmp"), "kernel-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	for i, name := range map[int]string{0: "vmlinux", 2: "config"} {
		if err := copyFile(s.blobPath(m.Layers[i].Digest.String()), filepath.Join(tmp, name)); err != nil {
			return err
		}
	}
	if err := s.extractModules(ctx, tmp, m.Layers[1]); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	s.mu.Lock() // two may extract at once; the first's is in use already
	defer s.mu.Unlock()
	if k.complete(m) {
		return nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}

// extractModules unpacks the tree of modules below dir, through os.Root.
func (s *Store) extractModules(ctx context.Context, dir string, desc ocispec.Descriptor) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	ra, err := s.content.ReaderAt(ctx, desc)
	if err != nil {
		return err
	}
	defer ra.Close()
	plain, err := decompress(contextReader{ctx, content.NewReader(ra)})
	if err != nil {
		return err
	}
	defer plain.Close()
	in := tar.NewReader(plain)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return damaged("tar", err)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(h.Name, 0o755)
		case tar.TypeReg:
			err = writeFile(root, h.Name, in)
		}
		if err != nil {
			return err
		}
	}
}

func writeFile(root *os.Root, name string, r io.Reader) error {
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
