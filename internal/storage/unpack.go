package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	goerofs "github.com/erofs/go-erofs"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/undo"
)

// Where the kernel has no EROFS, or does not mount one in a user namespace, a
// layer is unpacked to a directory, which is then mounted in the layer's place:
// everyone else sees no difference.

func (s *Storage) unpackedDir() string { return filepath.Join(s.root, "unpacked") }

// sourceSuffix ends the name of the symbolic link beside an unpacked layer that
// leads to its image. It is made last: a layer without one is not complete.
const sourceSuffix = ".image"

// sweepUnpacked removes unpacked layers that nobody uses and whose image is gone
// or which are not complete. Others stay: to unpack a layer anew for each
// instance would cost seconds. The caller holds mu, or is alone.
func (s *Storage) sweepUnpacked() error {
	entries, err := os.ReadDir(s.unpackedDir())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if !e.IsDir() || s.mounted[e.Name()] != nil {
			continue
		}
		dir := filepath.Join(s.unpackedDir(), e.Name())
		if _, serr := os.Stat(dir + sourceSuffix); serr == nil {
			continue
		}
		err = errors.Join(err, os.RemoveAll(dir), os.RemoveAll(dir+sourceSuffix))
	}
	return err
}

// mountUnpacked mounts the content of an EROFS image at dir without the
// kernel's help.
func (s *Storage) mountUnpacked(ctx context.Context, image, dir string) (err error) {
	var u undo.Stack
	defer u.Run(ctx, &err)
	from := filepath.Join(s.unpackedDir(), filepath.Base(dir))
	if err := unpackOnce(ctx, image, from); err != nil {
		return diskFull(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	u.Add(func(context.Context) error { return os.Remove(dir) })
	if err := unix.Mount(from, dir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount the unpacked layer: %w", err)
	}
	u.Add(func(context.Context) error { return unix.Unmount(dir, unix.MNT_DETACH) })
	if err := unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|layerFlags, ""); err != nil {
		return fmt.Errorf("make the unpacked layer read-only: %w", err)
	}
	u.Release()
	return nil
}

// unpackOnce unpacks an image to a directory, unless it is there already.
func unpackOnce(ctx context.Context, image, dir string) (err error) {
	if source, err := os.Readlink(dir + sourceSuffix); err == nil && source == image {
		return nil
	}
	if err := errors.Join(os.RemoveAll(dir), os.RemoveAll(dir+sourceSuffix)); err != nil { // of one that was killed
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err = unpack(ctx, image, dir); err == nil {
		err = os.Symlink(image, dir+sourceSuffix)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	return nil
}

// unpack copies the content of an EROFS image below dir, which is empty and
// private: the names come from a tree without links in the way, made by package
// layer, and nobody else can put one there.
func unpack(ctx context.Context, image, dir string) error {
	return fill(ctx, image, &unpacker{dir: dir, links: map[int64]string{}})
}

// fill has an unpacker take in an image.
func fill(ctx context.Context, image string, p *unpacker) error {
	f, err := os.Open(image)
	if err != nil {
		return err
	}
	defer f.Close()
	img, err := goerofs.Open(f)
	if err != nil {
		return err
	}
	p.img = img
	err = iofs.WalkDir(img, ".", func(name string, d iofs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return p.entry(name, info)
	})
	if err != nil {
		return fmt.Errorf("unpack %s: %w", image, err)
	}
	// A directory's time and mode would not survive, or hinder, its filling.
	for _, set := range slices.Backward(p.dirs) {
		if err := set(); err != nil {
			return err
		}
	}
	return nil
}

type unpacker struct {
	img   iofs.FS
	dir   string
	links map[int64]string // path of the first name, by inode
	dirs  []func() error   // what remains to be done for directories
	over  bool             // there is a tree already, as Merge says
	root  bool             // of which the root is changed too
}

func (p *unpacker) entry(name string, info iofs.FileInfo) error {
	st, ok := info.Sys().(*goerofs.Stat)
	if !ok {
		return errors.New("an inode that cannot be read")
	}
	path := p.dir + "/" + name // "." goes through a link
	if p.over {
		if done, err := p.makeRoom(name, path, info, st); done || err != nil {
			return err
		}
	}
	if first, ok := p.links[st.Ino]; ok && !info.IsDir() {
		return os.Link(first, path)
	}
	if st.Nlink > 1 {
		p.links[st.Ino] = path
	}
	if err := p.make(name, path, info, st); err != nil {
		if errors.Is(err, unix.EPERM) && st.Mode&iofs.ModeCharDevice != 0 {
			// A user namespace makes no devices but whiteouts; every container has those
			// that layers may have anyway.
			return nil
		}
		return err
	}
	if info.IsDir() {
		p.finishDir(path, st)
		return nil
	}
	return setAttributes(path, st)
}

// finishDir gives a directory its attributes once it is filled.
func (p *unpacker) finishDir(path string, st *goerofs.Stat) {
	p.dirs = append(p.dirs, func() error { return setAttributes(path, st) })
}

// make makes the inode with its content.
func (p *unpacker) make(name, path string, info iofs.FileInfo, st *goerofs.Stat) error {
	switch mode := info.Mode(); {
	case mode.IsRegular():
		in, err := p.img.Open(name)
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		return errors.Join(err, out.Close())
	case mode.IsDir():
		if name == "." {
			return nil
		}
		return os.Mkdir(path, 0o700)
	case mode&iofs.ModeSymlink != 0:
		target, err := iofs.ReadLink(p.img, name)
		if err != nil {
			return err
		}
		return os.Symlink(target, path)
	case mode&iofs.ModeNamedPipe != 0:
		return unix.Mknod(path, unix.S_IFIFO|0o600, 0)
	case mode&iofs.ModeCharDevice != 0: // whiteouts among them
		// The image has the kernel's new_encode_dev, which Mkdev is not.
		major, minor := st.Rdev>>8&0xfff, st.Rdev&0xff|st.Rdev>>12&0xfff00
		return unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(major, minor)))
	}
	return fmt.Errorf("%s is of a kind that layers have not", name)
}

// setAttributes gives an inode its owner, mode, attributes and time, in the
// order in which none undoes another.
func setAttributes(path string, st *goerofs.Stat) error {
	err := os.Lchown(path, int(st.UID), int(st.GID))
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("a file belongs to user %d and group %d, and the user's namespace has fewer ids; /etc/subuid and /etc/subgid can give it more", st.UID, st.GID)
	}
	if err != nil {
		return err
	}
	if st.Mode&iofs.ModeSymlink == 0 {
		if err := os.Chmod(path, st.Mode&(iofs.ModePerm|iofs.ModeSetuid|iofs.ModeSetgid|iofs.ModeSticky)); err != nil {
			return err
		}
		for name, value := range st.Xattrs {
			// The library ends the names of access lists with a dot.
			name = strings.TrimSuffix(name, ".")
			err := unix.Lsetxattr(path, name, []byte(value), 0)
			if own, ok := strings.CutPrefix(name, "trusted."); ok && errors.Is(err, unix.EPERM) {
				// What overlayfs reads of a mount with userxattr.
				err = unix.Lsetxattr(path, "user."+own, []byte(value), 0)
			}
			if err != nil {
				return fmt.Errorf("set %s: %w", name, err)
			}
		}
	}
	t := unix.Timespec{Sec: int64(st.Mtime), Nsec: int64(st.MtimeNs)}
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW)
}
