package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/berthcloud/berth/api"
)

// BaseName is the name of the image that Base makes.
const BaseName = "base"

// busyboxPath is where package busybox-static puts its one file.
const busyboxPath = "/bin/busybox"

// Base makes the image "base" from busybox-static: a shell and the usual commands
// in two megabytes, for first steps and tests. The same busybox makes the same
// image, bit by bit. For another architecture than the host's ("") its package is
// downloaded, and the architecture is the image's tag. It returns the name.
func (s *Store) Base(ctx context.Context, arch string, progress Progress) (string, error) {
	const op = "make image"
	name, err := taggedFor(BaseName, arch)
	if err != nil {
		return "", api.E(op, "", BaseName, err)
	}
	name = strings.TrimSuffix(name, ":latest")
	busybox, applets, err := hostBusybox(ctx)
	if err == nil && name != BaseName {
		busybox, err = s.foreignBusybox(ctx, arch, progress)
		applets = slices.DeleteFunc(applets, func(name string) bool { return !busybox.has(path.Base(name)) })
	}
	if err != nil {
		return "", api.E(op, "", name, err)
	}
	archive, err := baseArchive(busybox.program, applets, busybox.built)
	if err != nil {
		return "", api.E(op, "", name, err)
	}
	_, err = s.importArchive(ctx, bytes.NewReader(archive), ImportOptions{
		Name: name, Arch: arch, Created: busybox.built, Progress: progress,
		Config: api.ImageConfig{Command: []string{"sh"}},
	}, false)
	return name, api.E(op, "", name, err)
}

// busybox is a static busybox.
type busybox struct {
	program []byte
	built   time.Time
}

// has reports whether the program has a command: its names stand in a row, each
// ended by a NUL.
func (b busybox) has(command string) bool {
	return bytes.Contains(b.program, []byte("\x00"+command+"\x00"))
}

// hostBusybox reads the host's own, and lists the commands it is.
func hostBusybox(ctx context.Context) (b busybox, applets []string, err error) {
	if b, err = readBusybox(busyboxPath); err != nil {
		return b, nil, api.E("", api.NotFound, "", fmt.Errorf("%s is missing; install the package busybox-static", busyboxPath))
	}
	list, err := exec.CommandContext(ctx, busyboxPath, "--list-full").Output()
	if err != nil {
		return b, nil, fmt.Errorf("list the commands of busybox: %w", err)
	}
	applets = strings.Fields(string(list))
	if !slices.Contains(applets, "bin/sh") {
		return b, nil, api.E("", api.Unsupported, "", errors.New("this busybox has no shell; install the package busybox-static"))
	}
	return b, applets, nil
}

func readBusybox(path string) (b busybox, err error) {
	if b.program, err = os.ReadFile(path); err != nil {
		return b, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return b, err
	}
	b.built = info.ModTime().Truncate(time.Second)
	return b, nil
}

// foreignBusybox downloads the busybox of another architecture. What commands it
// has, it could only say to its own processor.
func (s *Store) foreignBusybox(ctx context.Context, arch string, progress Progress) (busybox, error) {
	dir, err := os.MkdirTemp(filepath.Join(s.root, "tmp"), "busybox-")
	if err != nil {
		return busybox{}, err
	}
	defer os.RemoveAll(dir)
	apt, err := newAPT(ctx, dir, arch, progress)
	if err != nil {
		return busybox{}, err
	}
	deb, err := apt.download(ctx, "busybox-static", progress)
	if err != nil {
		return busybox{}, err
	}
	if _, err := newCommand(ctx, progress, dir, "dpkg-deb", "-x", deb, "root").output(ctx, 1<<20); err != nil {
		return busybox{}, err
	}
	for _, place := range []string{"bin/busybox", "usr/bin/busybox"} { // Debian 13 and later
		if b, err := readBusybox(filepath.Join(dir, "root", place)); err == nil {
			return b, nil
		}
	}
	return busybox{}, api.E("", api.Corrupt, filepath.Base(deb), errors.New("the package has no busybox"))
}

// baseFiles are the files of the base image beside busybox. The empty ones are mounted
// over: where one is missing, every container makes it in its writable layer.
var baseFiles = map[string]string{
	"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n" +
		"daemon:x:1:1:daemon:/usr/sbin:/bin/false\n" +
		"nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
	"etc/group":         "root:x:0:\ndaemon:x:1:\ntty:x:5:\nnogroup:x:65534:\n",
	"etc/shadow":        "root:*:::::::\ndaemon:*:::::::\nnobody:*:::::::\n",
	"etc/hosts":         "127.0.0.1\tlocalhost\n::1\tlocalhost\n",
	"etc/hostname":      "",
	"etc/resolv.conf":   "",
	"etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
	"etc/os-release":    "NAME=\"Berth base\"\nID=berth-base\nPRETTY_NAME=\"Berth base (busybox)\"\n",
}

// baseDirs are its directories, with their permission bits where those are not 0755.
var baseDirs = map[string]int64{
	"bin": 0, "dev": 0, "etc": 0, "home": 0, "mnt": 0, "proc": 0, "root": 0o700, "run": 0, "sbin": 0, "sys": 0,
	"tmp": 0o1777, "usr": 0, "usr/bin": 0, "usr/sbin": 0, "var": 0, "var/log": 0, "var/tmp": 0o1777,
}

// baseArchive makes the root filesystem, every entry dated mtime.
func baseArchive(busybox []byte, applets []string, mtime time.Time) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h tar.Header, content string) error {
		h.ModTime, h.Format, h.Size = mtime, tar.FormatPAX, int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		_, err := io.WriteString(w, content)
		return err
	}
	for _, name := range sortedKeys(baseDirs) {
		mode := baseDirs[name]
		if mode == 0 {
			mode = 0o755
		}
		if err := add(tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}, ""); err != nil {
			return nil, err
		}
	}
	for _, name := range sortedKeys(baseFiles) {
		mode := int64(0o644)
		if name == "etc/shadow" {
			mode = 0o600
		}
		if err := add(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, baseFiles[name]); err != nil {
			return nil, err
		}
	}
	if err := add(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, string(busybox)); err != nil {
		return nil, err
	}
	slices.Sort(applets)
	for _, name := range slices.Compact(applets) {
		if _, ok := baseDirs[path.Dir(name)]; !ok || path.Base(name) == "busybox" {
			continue
		}
		if err := add(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: "/bin/busybox", Mode: 0o777}, ""); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}
