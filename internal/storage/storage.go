// Package storage keeps what instances stand on: the mounted read-only layers,
// the writable layers, and the volumes of one host.
//
//	RUN/layers/HEX/      a layer's EROFS image, mounted once for all containers;
//	                     HEX is the first half of its digest
//	ROOT/instances/ID/   upper and work of a container, root.raw of a VM
//	ROOT/volumes/NAME/   a volume: _data and volume.json
//	ROOT/unpacked/HEX/   a layer as a directory, where the kernel mounts no EROFS
//	                     image; HEX.image leads to that, and ends with it
//
// # Layers
//
// A layer is mounted when its first holder needs it. When its last one has gone it
// stays mounted for a while, because the next one often comes soon. Who holds what
// is the caller's to remember: after berthd was killed, it says so anew by Adopt, and
// Sweep unmounts what nobody holds.
//
// Nothing is mounted per instance on the host: the overlay of a container is
// mounted in its own mount namespace and dies with it.
package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/undo"
)

// idle is how long a layer stays mounted for nobody. Mounting and unmounting one takes
// the processor more than a millisecond, and the kernel waits for RCU. What has been
// read of it goes with it, and would come from the disk again.
const idle = 5 * time.Minute

// Storage is the storage of a host. Its methods may be called concurrently.
type Storage struct {
	root, run string
	unpack    bool // layers are unpacked, as in OpenUnpacked

	mu      sync.Mutex          // held while mounting: two holders must not mount one layer twice
	held    map[string][]string // layers of each holder, by hex
	mounted map[string]*mounted // by hex
	volumes sync.Mutex          // guards the directory of volumes
}

// mounted is a layer that is mounted.
type mounted struct {
	users  int         // holders
	expire *time.Timer // unmounts it, while it has none
}

// Layer is a read-only layer to mount.
type Layer struct {
	Digest string // sha256:HEX of the EROFS image
	Path   string // the EROFS image, a regular file
}

// Open returns the storage below root and run.
func Open(root, run string) (*Storage, error) { return open(root, run, false) }

// OpenUnpacked is Open for a user namespace: the kernel mounts no EROFS image
// there, so layers are unpacked to directories.
func OpenUnpacked(root, run string) (*Storage, error) { return open(root, run, true) }

func open(root, run string, unpack bool) (*Storage, error) {
	s := &Storage{root: root, run: run, unpack: unpack, held: make(map[string][]string), mounted: make(map[string]*mounted)}
	for _, dir := range []string{s.layersDir(), s.volumesDir(), filepath.Join(root, "instances")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, api.E("open the storage", api.Exhausted, dir, err)
		}
	}
	return s, nil
}

func (s *Storage) layersDir() string  { return filepath.Join(s.run, "layers") }
func (s *Storage) volumesDir() string { return filepath.Join(s.root, "volumes") }

// Adopt makes holder hold the layers that it got as dirs from the Mount of a berthd
// before this one. Where one of them is not mounted any more it holds none.
func (s *Storage) Adopt(holder string, dirs []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var hexes []string
	for _, dir := range dirs {
		hex := filepath.Base(dir)
		found, err := mountinfo.Mounted(filepath.Join(s.layersDir(), hex))
		if errors.Is(err, os.ErrNotExist) || err == nil && !found {
			return nil
		}
		if err != nil {
			return api.E("adopt the layers of", "", holder, err)
		}
		hexes = append(hexes, hex)
	}
	for _, hex := range hexes {
		s.take(hex)
	}
	s.held[holder] = hexes
	return nil
}

// Sweep unmounts the layers that nobody holds, those of a berthd before this one
// too, and removes what else of layers is of no use.
func (s *Storage) Sweep() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	layers, err := os.ReadDir(s.layersDir())
	for _, l := range layers {
		if m := s.mounted[l.Name()]; m == nil || m.users == 0 {
			err = errors.Join(err, s.unmount(l.Name()))
		}
	}
	return api.E("sweep the layers", "", s.run, errors.Join(err, s.sweepUnpacked()))
}

// LayerDir returns where a layer is mounted while somebody holds it.
func (s *Storage) LayerDir(l Layer) string { return filepath.Join(s.layersDir(), hexOf(l.Digest)) }

// Mount mounts the layers for a holder, those that are not mounted yet, and
// returns their directories in the same order. A holder holds one list at a
// time: mounting again replaces it.
func (s *Storage) Mount(ctx context.Context, holder string, layers []Layer) (dirs []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release(holder)
	var u undo.Stack
	defer u.Run(ctx, &err)
	u.Add(func(context.Context) error { s.release(holder); return nil })
	for _, l := range layers {
		hex, dir := hexOf(l.Digest), s.LayerDir(l)
		if s.mounted[hex] == nil {
			if err := s.mountLayer(ctx, l.Path, dir); err != nil {
				return nil, api.E("mount the layer", "", hex[:12], err)
			}
		}
		s.take(hex)
		s.held[holder] = append(s.held[holder], hex)
		dirs = append(dirs, dir)
	}
	u.Release()
	return dirs, nil
}

// take adds a user to a mounted layer. The caller holds mu.
func (s *Storage) take(hex string) {
	m := s.mounted[hex]
	if m == nil {
		m = &mounted{}
		s.mounted[hex] = m
	}
	if m.expire != nil {
		m.expire.Stop()
		m.expire = nil
	}
	m.users++
}

// hexOf names a layer by half of its digest: 128 bits tell layers apart, and
// short paths let overlayfs's page of mount options hold many of them on
// kernels before 6.5.
func hexOf(digest string) string {
	hex := strings.TrimPrefix(digest, "sha256:")
	return hex[:min(len(hex), 32)]
}

// Release ends a holder's need of its layers. It is no error if it has none.
func (s *Storage) Release(holder string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release(holder)
}

// release is called with mu held.
func (s *Storage) release(holder string) {
	for _, hex := range s.held[holder] {
		m := s.mounted[hex]
		if m.users--; m.users == 0 {
			m.expire = time.AfterFunc(idle, func() { s.expire(hex, m) })
		}
	}
	delete(s.held, holder)
}

// expire unmounts a layer that nobody has taken meanwhile. Where that fails, the next
// Sweep tries again.
func (s *Storage) expire(hex string, m *mounted) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mounted[hex] == m && m.users == 0 {
		_ = s.unmount(hex)
	}
}

// unmount takes the mount and directory away of a layer that nobody uses. The mount
// is detached lazily: a namespace that is just going may still hold it.
func (s *Storage) unmount(hex string) error {
	if m := s.mounted[hex]; m != nil && m.expire != nil {
		m.expire.Stop()
	}
	delete(s.mounted, hex)
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
