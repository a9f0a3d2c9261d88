package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthcloud/berth/internal/disk"
)

// rackPackages are what a host of a rack has beyond a minimal Debian: what
// packages.txt asks for on a host, and kmod, by which the kernel loads the
// modules that it finds missing.
var rackPackages = []string{"busybox-static", "e2fsprogs", "iproute2", "kmod", "nftables", "qemu-system-x86", "qemu-utils"}

// edition is what distinguishes the hosts of one rack from those of another.
type edition struct {
	name     string   // of the root filesystem in CacheDir
	packages []string // of Debian
	init     string   // what becomes process 1, or "" for the rack's own
}

// plainHosts are small and boot fast.
func plainHosts() edition { return edition{name: "rackhost", packages: rackPackages} }

// systemdHosts are what a Debian server is: systemd is process 1, D-Bus runs, and users
// have a systemd each. They have CRIU too, and iptables, by which it finds out what to restore of a network.
func systemdHosts() edition {
	return edition{
		name: "racksystemd", init: "/sbin/init",
		packages: []string{"busybox-static", "criu", "dbus", "iproute2", "iptables", "kmod", "libpam-systemd", "nftables", "systemd-sysv", "uidmap"},
	}
}

// bootModules are loaded in the initramfs: what the root filesystem needs, and
// what a Debian host has from udev.
var bootModules = []string{
	"virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng",
	"erofs", "ext4", "overlay", "loop", "tun", "kvm_amd",
}

// rackImages are the files that every host of every rack boots from.
type rackImages struct {
	kernel string // bzImage
	initrd string
	root   string // EROFS
}

// buildRackImages makes the images from the packages of the distribution that
// this machine's apt is set up for; they are kept in CacheDir.
func buildRackImages(t testing.TB, e edition) rackImages {
	t.Helper()
	kernelPackage, err := kernelPackage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	host := cached(t, e.name, kernelPackage+" "+strings.Join(e.packages, " ")+" 3", func(ctx context.Context, dir string) error {
		return fillHost(ctx, dir, kernelPackage, e.packages)
	})
	// The initramfs holds our own init, so it is as fresh as the repository.
	init := filepath.Join(CacheDir(t), "rackhost.init")
	unlock := lock(t, init+".lock")
	defer unlock()
	if err := goBuild(t.Context(), Repository(t), init, "./internal/testenv/rackhost"); err != nil {
		t.Fatal(err)
	}
	images := rackImages{
		kernel: filepath.Join(host, "vmlinuz"),
		root:   filepath.Join(host, "root.erofs"),
		initrd: filepath.Join(Dir(t), "initrd"),
	}
	if err := writeInitrd(images.initrd, init, filepath.Join(host, "modules")); err != nil {
		t.Fatal(err)
	}
	return images
}

// kernelPackage returns the real package behind linux-image-cloud-amd64, as in
// linux-image-6.1.0-25-cloud-amd64.
func kernelPackage(ctx context.Context) (string, error) {
	const meta = "linux-image-cloud-amd64"
	for _, refresh := range []bool{false, true} {
		if refresh { // a machine whose package lists were cleaned away
			if _, err := run(ctx, "/", "apt-get", "-q", "update"); err != nil {
				return "", err
			}
		}
		out, err := run(ctx, "/", "apt-cache", "depends", meta)
		for line := range strings.Lines(out) {
			name, found := strings.CutPrefix(strings.TrimSpace(line), "Depends: ")
			if err == nil && found && strings.HasPrefix(name, "linux-image-") {
				return name, nil
			}
		}
	}
	return "", fmt.Errorf("apt knows no package %s: racks boot Debian's cloud kernel", meta)
}

// fillHost makes vmlinuz, modules/ and root.erofs in dir.
func fillHost(ctx context.Context, dir, kernelPackage string, packages []string) error {
	work, err := os.MkdirTemp(dir, "work")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if _, err := run(ctx, work, "apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", kernelPackage); err != nil {
		return err
	}
	deb, err := only(filepath.Join(work, "*.deb"))
	if err != nil {
		return err
	}
	if _, err := run(ctx, work, "dpkg-deb", "-x", deb, "kernel"); err != nil {
		return err
	}
	root := filepath.Join(work, "root")
	if err := debootstrap(ctx, root, packages); err != nil {
		return err
	}
	modules, err := only(filepath.Join(work, "kernel/lib/modules/*"))
	if err != nil {
		return err
	}
	vmlinuz, err := only(filepath.Join(work, "kernel/boot/vmlinuz-*"))
	if err != nil {
		return err
	}
	inRoot := filepath.Join(root, "usr/lib/modules", filepath.Base(modules))
	steps := [][]string{
		{"mkdir", "-p", filepath.Dir(inRoot), filepath.Join(root, "opt/berth"), filepath.Join(root, "data"), filepath.Join(root, "var/lib/berth")},
		{"cp", "-a", modules, inRoot},
		{"chroot", root, "depmod", filepath.Base(modules)},
		{"chroot", root, "groupadd", "--system", "--force", "kvm"}, // as udev's package does
		{"mv", modules, filepath.Join(dir, "modules")},
		{"mv", vmlinuz, filepath.Join(dir, "vmlinuz")},
	}
	for _, argv := range steps {
		if _, err := run(ctx, work, argv...); err != nil {
			return err
		}
	}
	return mkfsErofs(ctx, filepath.Join(dir, "root.erofs"), root)
}

// debootstrap makes a minimal Debian with further packages in the directory or tar
// archive root, from the mirror that this machine's apt uses. Hooks of mmdebstrap
// may come after.
func debootstrap(ctx context.Context, root string, packages []string, hooks ...string) error {
	sources, err := debianSources(ctx)
	if err != nil {
		return err
	}
	suite := strings.Fields(sources[0])[2]
	argv := []string{
		"mmdebstrap", "--quiet", "--mode=root", "--variant=minbase",
		"--include=" + strings.Join(packages, ","),
		`--aptopt=APT::Install-Recommends "false"`,
		"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
	}
	argv = append(append(argv, hooks...), suite, root)
	_, err = run(ctx, "/", append(argv, sources...)...)
	return err
}

// debianSources are the lines by which this host's apt finds Debian's packages.
func debianSources(ctx context.Context) (sources []string, err error) {
	targets, err := run(ctx, "/", "apt-get", "indextargets", "--format", "$(ORIGIN)|deb $(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(targets) {
		if source, ok := strings.CutPrefix(strings.TrimSpace(line), "Debian|"); ok {
			sources = append(sources, source)
		}
	}
	if len(sources) == 0 {
		return nil, errors.New("apt has no sources of Debian: racks are Debian hosts")
	}
	return sources, nil
}

// mkfsErofs writes an uncompressed EROFS image of a directory. It is the
// distribution's own tool, not the code under test.
func mkfsErofs(ctx context.Context, image, dir string) error {
	_, err := run(ctx, "/", "mkfs.erofs", "-d0", "-Enoinline_data", image, dir)
	return err
}

// writeInitrd packs init and the modules it needs to find its disks.
func writeInitrd(path, init, modules string) (err error) {
	index, err := disk.OpenModules(os.DirFS(modules))
	if err != nil {
		return err
	}
	list, err := index.Order(bootModules...)
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	program, err := os.Open(init)
	if err != nil {
		return err
	}
	defer program.Close()
	info, err := program.Stat()
	if err != nil {
		return err
	}
	cpio := disk.NewCpio(f)
	for _, dir := range []string{"dev", "proc", "sys", "modules"} {
		cpio.Dir(dir, 0o755)
	}
	cpio.Char("dev/console", 0o600, 5, 1)
	cpio.File("init", 0o755, program, info.Size())
	for i, m := range list {
		cpio.File(fmt.Sprintf("modules/%02d-%s.ko", i, m.Name), 0o644, strings.NewReader(string(m.Data)), int64(len(m.Data)))
	}
	return cpio.Close()
}

// only returns the one file that a pattern matches.
func only(pattern string) (string, error) {
	files, err := filepath.Glob(pattern)
	if err == nil && len(files) != 1 {
		err = fmt.Errorf("%s: %d files, not one", pattern, len(files))
	}
	if err != nil {
		return "", err
	}
	return files[0], nil
}
