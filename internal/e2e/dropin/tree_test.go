package dropin

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// lister is what this program is called where it lists a container's root filesystem.
const lister = "/lister"

// given are the files that are not of the image but of whoever runs it.
var given = []string{lister, "/proc", "/sys", "/dev", "/.dockerenv", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/mtab"}

// list writes all of a tree that a layer can carry, a line each: name, mode, owner, size
// or device or target, the name of the first hard link, digest, time and extended
// attributes. It returns an exit status.
func list(root string, to io.Writer) int {
	links := map[[2]uint64]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if slices.Contains(given, path) {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		line, err := describe(path, links)
		if err == nil {
			_, err = fmt.Fprintln(to, line)
		}
		return err
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func describe(path string, links map[[2]uint64]string) (string, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	st := info.Sys().(*syscall.Stat_t)
	words := []string{path, info.Mode().String(), fmt.Sprintf("%d:%d", st.Uid, st.Gid)}
	switch kind := info.Mode().Type(); {
	case kind.IsDir():
	case kind&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		words = append(words, "-> "+target)
	case kind&fs.ModeDevice != 0:
		words = append(words, fmt.Sprintf("%d,%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	case kind.IsRegular():
		sum, err := digest(path)
		if err != nil {
			return "", err
		}
		words = append(words, fmt.Sprint(st.Size), sum)
	}
	if id := [2]uint64{st.Dev, st.Ino}; !info.IsDir() && st.Nlink > 1 {
		links[id] = cmp.Or(links[id], path)
		words = append(words, fmt.Sprintf("%d links to %s", st.Nlink, links[id]))
	}
	attributes, err := attributes(path)
	words = append(append(words, attributes...), fmt.Sprint(info.ModTime().Unix()))
	return strings.Join(words, " "), err
}

func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	_, err = io.Copy(sum, f)
	return hex.EncodeToString(sum.Sum(nil)[:8]), err
}

// attributes are the extended attributes of a file, as NAME=VALUE.
func attributes(path string) (list []string, err error) {
	names := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, names)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "listxattr", Path: path, Err: err}
	}
	value := make([]byte, 64<<10)
	for name := range strings.SplitSeq(string(names[:n]), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.") { // overlayfs's own
			continue
		}
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, &os.PathError{Op: "getxattr " + name, Path: path, Err: err}
		}
		list = append(list, fmt.Sprintf("%s=%x", name, value[:n]))
	}
	slices.Sort(list)
	return list, nil
}
