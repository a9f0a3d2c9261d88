// Package storage keeps what instances stand on: the mounted read-only layers,
// the writable layers, and the volumes of one host.
//
//	RUN/layers/HEX/      a layer's EROFS image, mounted once for all containers;
//	                     HEX is the first half of its digest
//	RUN/holders/ID       which layers instance ID uses, one digest a line
//	ROOT/instances/ID/   upper and work of a container, root.raw of a VM
//	ROOT/volumes/NAME/   a volume: _data and volume.json
//	ROOT/unpacked/HEX/   a layer as a directory, where the kernel mounts no EROFS
//	                     image; HEX.image leads to that, and ends with it
//
// # Layers
//
// A layer is mounted when its first holder needs it and unmounted when its
// last one goes. Who holds what stands in RUN/holders, written before the
// mount and removed before the unmount. After berthd was killed, Open finds
// mounts, holders and nothing else to trust: it counts the holders and
// unmounts what nobody holds.
//
// Nothing is mounted per instance on the host: the overlay of a container is
// mounted in its own mount namespace and dies with it.
package storage

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/undo"
)

// Storage is the storage of a host. Its methods may be called concurrently.
type Storage struct {
	root, run string
	unpack    bool // layers are unpacked, as in OpenUnpacked

	mu      sync.Mutex     // held while mounting: two holders must not mount one layer twice
	users   map[string]int // holders of each mounted layer, by hex
	volumes sync.Mutex     // guards the directory of volumes
}

// Layer is a read-only layer to mount.
type Layer struct {
	Digest string // sha256:HEX of the EROFS image
	Path   string // the EROFS image, a regular file
}

// Open returns the storage below root and run, and unmounts layers that no
// holder needs any more.
func Open(root, run string) (*Storage, error) { return open(root, run, false) }

// OpenUnpacked is Open for a user namespace: the kernel mounts no EROFS image
// there, so layers are unpacked to directories.
func OpenUnpacked(root, run string) (*Storage, error) { return open(root, run, true) }

func open(root, run string, unpack bool) (*Storage, error) {
	s := &Storage{root: root, run: run, unpack: unpack, users: make(map[string]int)}
	for _, dir := range []string{s.layersDir(), s.holdersDir(), s.volumesDir(), filepath.Join(root, "instances")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, api.E("open the storage", api.Exhausted, dir, err)
		}
	}
	return s, api.E("open the storage", "", run, s.recover())
}

func (s *Storage) layersDir() string  { return filepath.Join(s.run, "layers") }
func (s *Storage) holdersDir() string { return filepath.Join(s.run, "holders") }
func (s *Storage) volumesDir() string { return filepath.Join(s.root, "volumes") }

// recover counts the holders anew and unmounts what none of them needs.
func (s *Storage) recover() error {
	holders, err := os.ReadDir(s.holdersDir())
	if err != nil {
		return err
	}
	for _, h := range holders {
		hexes, err := s.held(h.Name())
		if err == nil && !s.allMounted(hexes) {
			// The host was rebooted, or berthd was killed while mounting.
			err = os.Remove(filepath.Join(s.holdersDir(), h.Name()))
			hexes = nil
		}
		if err != nil {
			return err
		}
		for _, hex := range hexes {
			s.users[hex]++
		}
	}
	layers, err := os.ReadDir(s.layersDir())
	if err != nil {
		return err
	}
	for _, l := range layers {
		if s.users[l.Name()] == 0 {
			if err := s.unmount(l.Name()); err != nil {
				return err
			}
		}
	}
	return s.sweepUnpacked()
}

func (s *Storage) allMounted(hexes []string) bool {
	for _, hex := range hexes {
		if mounted, err := mountinfo.Mounted(filepath.Join(s.layersDir(), hex)); err != nil || !mounted {
			return false
		}
	}
	return true
}

// held returns the layers of a holder.
func (s *Storage) held(holder string) (hexes []string, err error) {
	data, err := os.ReadFile(filepath.Join(s.holdersDir(), holder))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		hexes = append(hexes, lines.Text())
	}
	return hexes, err
}

// LayerDir returns where a layer is mounted while somebody holds it.
func (s *Storage) LayerDir(l Layer) string { return filepath.Join(s.layersDir(), hexOf(l.Digest)) }

// Mount mounts the layers for a holder, those that are not mounted yet, and
// returns their directories in the same order. A holder holds one list at a
// time: mounting again replaces it.
func (s *Storage) Mount(ctx context.Context, holder string, layers []Layer) (dirs []string, err error) {
	if err := s.Release(ctx, holder); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var u undo.Stack
	defer u.Run(ctx, &err)
	if err := s.writeHolder(holder, layers); err != nil {
		return nil, api.E("mount the layers of", api.Exhausted, holder, err)
	}
	u.Add(func(context.Context) error { return os.Remove(filepath.Join(s.holdersDir(), holder)) })
	for _, l := range layers {
		hex, dir := hexOf(l.Digest), s.LayerDir(l)
		if s.users[hex] == 0 {
			if err := s.mountLayer(ctx, l.Path, dir); err != nil {
				return nil, api.E("mount the layer", "", hex[:12], err)
			}
		}
		s.users[hex]++
		u.Add(func(context.Context) error { return s.drop(hex) })
		dirs = append(dirs, dir)
	}
	u.Release()
	return dirs, nil
}

// hexOf names a layer by half of its digest: 128 bits tell layers apart, and
// short paths let overlayfs's page of mount options hold many of them on
// kernels before 6.5.
func hexOf(digest string) string {
	hex := strings.TrimPrefix(digest, "sha256:")
	return hex[:min(len(hex), 32)]
}

func (s *Storage) writeHolder(holder string, layers []Layer) error {
	var b strings.Builder
	for _, l := range layers {
		b.WriteString(hexOf(l.Digest))
		b.WriteByte('\n')
	}
	path := filepath.Join(s.holdersDir(), holder)
	tmp := filepath.Join(s.run, "holder-"+holder+".tmp")
	if err := os.WriteFile(tmp, []byte(b.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// Release ends a holder's need of its layers. It is no error if it has none.
func (s *Storage) Release(_ context.Context, holder string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	hexes, err := s.held(holder)
	if err != nil || hexes == nil {
		return err
	}
	if err := os.Remove(filepath.Join(s.holdersDir(), holder)); err != nil {
		return err
	}
	for _, hex := range hexes {
		err = errors.Join(err, s.drop(hex))
	}
	return api.E("release the layers of", "", holder, err)
}

// drop takes one user off a layer. The caller holds mu.
func (s *Storage) drop(hex string) error {
	if s.users[hex]--; s.users[hex] > 0 {
		return nil
	}
	delete(s.users, hex)
	return s.unmount(hex)
}

// unmount takes a layer's mount and directory away. The mount is detached
// lazily: a namespace that is just going may still hold it.
func (s *Storage) unmount(hex string) error {
	dir := filepath.Join(s.layersDir(), hex)
	err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return s.sweepUnpacked()
}

// mountLayer mounts a layer, in the way that the kernel allows.
func (s *Storage) mountLayer(ctx context.Context, image, dir string) error {
	if !s.unpack {
		err := mountImage(image, dir)
		if !errors.Is(err, unix.ENODEV) { // the kernel has EROFS
			return err
		}
	}
	return s.mountUnpacked(ctx, image, dir)
}

// mountImage mounts an EROFS image read-only. A directory on which it is
// mounted already, by a berthd that was killed, is left as it is.
func mountImage(image, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if mounted, err := mountinfo.Mounted(dir); err != nil || mounted {
		return err
	}
	err := mountErofs(image, dir)
	if err != nil {
		os.Remove(dir)
	}
	return err
}
