package image

import (
	"context"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
)

// treeFacts are what of a root filesystem decides how a disk of it starts.
type treeFacts struct {
	kernel, initrd string // paths as GRUB takes them; both or none
	init           string // the first program, "" without one
	systemd        bool
	boots          bool // its init has something to start: systemd, or an inittab
	fstab          bool // it has one with a root filesystem in it
	bytes, files   int64
}

// inits are where an init is looked for.
var inits = []string{"sbin/init", "usr/sbin/init", "lib/systemd/systemd", "usr/lib/systemd/systemd", "etc/init", "bin/init"}

// lookAt finds out the facts. The tree is a stranger's: no link leads out of it.
func lookAt(ctx context.Context, tree *os.Root) (f treeFacts, err error) {
	has := func(name string) bool {
		_, err := tree.Lstat(name)
		return err == nil
	}
	if i := slices.IndexFunc(inits, has); i >= 0 {
		f.init = "/" + inits[i]
	}
	f.systemd = has("usr/lib/systemd/systemd") || has("lib/systemd/systemd")
	f.boots = f.systemd || has("etc/inittab")
	f.kernel, f.initrd = ownKernel(tree, has)
	if text, err := tree.ReadFile("etc/fstab"); err == nil {
		f.fstab = mountsRoot(string(text))
	}
	f.bytes, f.files, err = weigh(ctx, tree)
	return f, err
}

// mountsRoot reports whether an fstab(5) has a line for the root filesystem.
func mountsRoot(fstab string) bool {
	for line := range strings.Lines(fstab) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[1] == "/" && !strings.HasPrefix(fields[0], "#") {
			return true
		}
	}
	return false
}

// ownKernel returns the kernel and the initramfs of a tree: where links lead to the
// newest, as Debian has them, those links, else the last by name.
func ownKernel(tree *os.Root, has func(string) bool) (kernel, initrd string) {
	for _, dir := range []string{"", "boot/"} {
		if has(dir+"vmlinuz") && has(dir+"initrd.img") {
			return "/" + dir + "vmlinuz", "/" + dir + "initrd.img"
		}
	}
	names, err := fs.Glob(tree.FS(), "boot/vmlinuz-*")
	if err != nil {
		return "", ""
	}
	slices.Reverse(names)
	for _, name := range names {
		release := strings.TrimPrefix(path.Base(name), "vmlinuz-")
		if !validRelease.MatchString(release) {
			continue // GRUB's configuration has room for no other
		}
		for _, initrd := range []string{"boot/initrd.img-" + release, "boot/initramfs-" + release + ".img", "boot/initrd-" + release} {
			if has(initrd) {
				return "/" + name, "/" + initrd
			}
		}
	}
	return "", ""
}

// weigh returns how many bytes the files of a tree take on a disk, and how many there are.
func weigh(ctx context.Context, tree *os.Root) (bytes, files int64, err error) {
	const block = 4096
	links := map[uint64]bool{}
	err = fs.WalkDir(tree.FS(), ".", func(_ string, entry fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		files++
		if entry.IsDir() {
			bytes += block
			return nil
		}
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 {
			if links[st.Ino] {
				return nil
			}
			links[st.Ino] = true
		}
		bytes += (info.Size() + block - 1) / block * block
		return nil
	})
	return bytes, files, err
}
