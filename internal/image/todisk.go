package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/agent"
	"github.com/berthcloud/berth/internal/disk"
	"github.com/berthcloud/berth/internal/pack"
)

// TreeDisk says what disk is made of an image of layers, and how.
type TreeDisk struct {
	Base Image
	Name string
	Size int64 // bytes; 0 for what it takes
	// Init is the image's own, whatever it has: api.InitSystem starts it, api.InitNone
	// the command, "" decides by what the image has.
	Init api.InitMode
	// Process is what starts where no init does, or why nothing can.
	Process func() (p agent.Process, stopSignal int, err error)
	// Kernel finds Berth's kernel, for an image that has none.
	Kernel func(context.Context) (Kernel, error)
	// View mounts layers, bottom first, read-only and out of everybody's sight.
	View     func(ctx context.Context, layers []Layer) (root *os.File, release func(), err error)
	Progress Progress
}

// ToDisk makes a disk image of an image of layers: one that BIOS and UEFI start. It
// returns the name. The same image makes the same disk, byte for byte, where
// SOURCE_DATE_EPOCH says when.
func (s *Store) ToDisk(ctx context.Context, o TreeDisk) (string, error) {
	name, err := tagName(o.Name)
	if err != nil {
		return "", err
	}
	if o.Base.Arch != "amd64" {
		return "", api.E("", api.Unsupported, "", fmt.Errorf("disks are made for amd64 only, and the image is for %s", o.Base.Arch))
	}
	ctx, done, err := s.work(ctx)
	if err != nil {
		return "", err
	}
	defer s.finish(ctx, done)
	dir, err := os.MkdirTemp(filepath.Join(s.root, "tmp"), "bootdisk-")
	if err != nil {
		return "", diskFull(err)
	}
	defer os.RemoveAll(dir)
	b := treeDisk{TreeDisk: o, store: s, diskBuild: diskBuild{dir: dir, boot: agent.BootDir, made: epoch(), progress: o.Progress}}
	b.uuid = uuidOf(fmt.Sprintf("%s %d", o.Base.Digest, b.made.Unix()))
	if err := b.run(ctx); err != nil {
		return "", diskFull(err)
	}
	config, err := s.configOf(ctx, o.Base)
	if err != nil {
		return "", err
	}
	opt := DiskOptions{Firmware: api.FirmwareBIOS, Arch: o.Base.Arch, Agent: b.agentStarts(), Created: b.made, Config: config, Progress: o.Progress}
	return Familiar(name), diskFull(s.storeDisk(ctx, name, b.path("disk"), opt))
}

// configOf returns what an image's config says of its instances.
func (s *Store) configOf(ctx context.Context, img Image) (json.RawMessage, error) {
	_, m, err := s.manifest(ctx, ocispec.Descriptor{Digest: digest.Digest(img.Digest), MediaType: ocispec.MediaTypeImageManifest})
	if err != nil {
		return nil, err
	}
	text, err := s.readBlob(ctx, m.Config, maxConfig)
	if err != nil {
		return nil, err
	}
	var doc object
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	return doc["config"], nil
}

// treeDisk is a disk being made of layers.
type treeDisk struct {
	TreeDisk
	diskBuild
	store *Store
	has   treeFacts
}

func (b *treeDisk) run(ctx context.Context) error {
	root, release, err := b.View(ctx, b.Base.Layers)
	if err != nil {
		return err
	}
	defer release()
	defer root.Close()
	tree, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", root.Fd()))
	if err != nil {
		return err
	}
	defer tree.Close()
	if b.has, err = lookAt(ctx, tree); err != nil {
		return err
	}
	files, err := b.files(ctx)
	if err != nil {
		return err
	}
	if b.size, err = b.fit(files); err != nil {
		return err
	}
	archive, err := addition(ctx, tree, files, b.made)
	if err != nil {
		return err
	}
	added, done, err := b.store.Scratch(ctx, archive)
	if err != nil {
		return err
	}
	defer done()
	whole, releaseWhole, err := b.View(ctx, append(slices.Clip(b.Base.Layers), added))
	if err != nil {
		return err
	}
	defer releaseWhole()
	defer whole.Close()
	b.Progress.report("disk", StageConverting, 0, b.size)
	if err := b.makeRoot(ctx, whole); err != nil {
		return err
	}
	if err := b.makeESP(ctx); err != nil {
		return err
	}
	return b.assemble(ctx)
}

// startsInit reports whether the disk starts an init of the image's.
func (b *treeDisk) startsInit() bool {
	if b.Init != "" {
		return b.Init == api.InitSystem
	}
	return b.has.init != "" && (b.has.kernel != "" || b.has.boots)
}

// ownKernel reports whether the disk starts the image's own kernel.
func (b *treeDisk) ownKernel() bool { return b.startsInit() && b.has.kernel != "" }

// agentStarts reports whether the agent runs in a machine that starts from the disk: by
// Berth's initramfs, or as a service of systemd's.
func (b *treeDisk) agentStarts() bool { return !b.ownKernel() || b.has.systemd }

// fit returns how large the disk is to be, in bytes: at least as large as what is on it.
func (b *treeDisk) fit(files map[string]string) (int64, error) {
	need := b.has.bytes + b.has.files*inodeRoom + diskRoom
	for _, content := range files {
		need += int64(len(content))
	}
	need += need / 16 // block maps, and what is root's alone
	const mib = 1 << 20
	need = (need + disk.RootOffset + 2*mib + mib - 1) / mib * mib
	switch {
	case b.Size == 0:
		return max(bootDiskSize, need), nil
	case b.Size < need:
		return 0, api.E("", api.Invalid, "", fmt.Errorf("it does not fit on a disk of %s: make that %s at the least, or leave --size out", units.BytesSize(float64(b.Size)), units.BytesSize(float64(need))))
	case b.Size > maxDisk:
		return 0, errDiskTooLarge(b.Size)
	}
	return b.Size / mib * mib, nil
}

// Sizes in bytes: of an inode with its directory entry, and of what every filesystem has
// that is empty, its journal above all.
const (
	inodeRoom = 512
	diskRoom  = 96 << 20
)

// makeRoot makes the root filesystem of the layers, in its place on the disk.
func (b *treeDisk) makeRoot(ctx context.Context, tree *os.File) error {
	if err := b.makeFile(); err != nil {
		return err
	}
	c := b.mkfs(ctx, "/proc/self/fd/3", "-N", fmt.Sprint(max(b.has.files*2, disk.RootSize(b.size)/(16<<10))))
	c.ExtraFiles = []*os.File{tree}
	return c.explain(ctx, c.Run())
}

// addition is an archive of files that lie over a tree: directories between them stay
// what they are there.
func addition(ctx context.Context, tree *os.Root, files map[string]string, made time.Time) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	seen := map[string]bool{}
	for _, name := range sortedKeys(files) {
		if err := parents(ctx, w, tree, path.Dir(name), seen, made); err != nil {
			return nil, err
		}
		h, content := tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, ModTime: made, Format: tar.FormatPAX}, files[name]
		if target, link := cutLink(content); link {
			h.Typeflag, h.Linkname, h.Mode, content = tar.TypeSymlink, target, 0o777, ""
		}
		if path.Base(name) == agentName {
			h.Mode = 0o755
		}
		h.Size = int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(w, content); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}

// parents writes a directory, after those above it, as the tree has it.
func parents(ctx context.Context, w *tar.Writer, tree *os.Root, dir string, seen map[string]bool, made time.Time) error {
	if seen[dir] {
		return nil
	}
	seen[dir] = true
	if dir != "." {
		if err := parents(ctx, w, tree, path.Dir(dir), seen, made); err != nil {
			return err
		}
	}
	info, err := tree.Lstat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: made, Format: tar.FormatPAX})
	case err != nil:
		return err
	case !info.IsDir():
		return api.E("", api.Unsupported, "", fmt.Errorf("its /%s is no directory, in which a disk has files of Berth's", dir))
	}
	open, err := tree.Open(dir)
	if err != nil {
		return err
	}
	defer open.Close()
	return pack.Tree(ctx, w, int(open.Fd()), dir, pack.Options{Image: true, Leave: func(string) bool { return true }})
}
