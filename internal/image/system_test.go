package image_test

import (
	"context"
	"debug/elf"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
)

// The tests here use the host's apt: they run where it has a mirror.

// TestForeign makes the tiny image for arm64, and looks at whether the
// host's apt and dpkg know anything more than before.
func TestForeign(t *testing.T) {
	if testing.Short() {
		t.Skip("downloads packages")
	}
	if runtime.GOARCH == "arm64" {
		t.Skip("this host is of arm64 itself")
	}
	lists := func() []string {
		names, err := filepath.Glob("/var/lib/apt/lists/*arm64*")
		if err != nil {
			t.Fatal(err)
		}
		foreign, err := os.ReadFile("/var/lib/dpkg/arch")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return append(names, string(foreign))
	}
	before := lists()
	s := open(t)
	name, err := s.Base(t.Context(), "arm64", nil)
	if api.IsKind(err, api.Unavailable) || api.IsKind(err, api.NotFound) {
		t.Skip(err)
	}
	if err != nil || name != "base:arm64" {
		t.Fatal(name, err)
	}
	img, err := s.Resolve(t.Context(), name)
	if err != nil || img.Arch != "arm64" {
		t.Fatalf("%+v, %v", img, err)
	}
	dir := mountLayer(t, img.Layers[0])
	program, err := elf.Open(filepath.Join(dir, "bin/busybox"))
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	if program.Machine != elf.EM_AARCH64 {
		t.Errorf("its busybox is for %v", program.Machine)
	}
	for _, command := range []string{"bin/sh", "bin/ls", "sbin/init", "usr/bin/wget"} {
		if _, err := os.Readlink(filepath.Join(dir, command)); err != nil {
			t.Error(err)
		}
	}
	if after := lists(); !slices.Equal(before, after) {
		t.Errorf("the host's apt or dpkg knows %q, not %q", after, before)
	}
	if _, err := s.BootstrapKernel(t.Context(), "cloud", "riscv64", nil); !api.IsKind(err, api.Invalid) {
		t.Errorf("for riscv64: %v", err)
	}
}

func TestKernel(t *testing.T) {
	if testing.Short() {
		t.Skip("downloads a package")
	}
	root := t.TempDir()
	s := openAt(t, root, image.Options{})
	if _, err := s.Kernel(t.Context(), "debian-cloud"); !api.IsKind(err, api.NotFound) || !strings.Contains(err.Error(), "berth kernel") {
		t.Errorf("kernel before it is made: %v", err)
	}
	name, err := s.BootstrapKernel(t.Context(), "cloud", "", nil)
	if api.IsKind(err, api.Unavailable) || api.IsKind(err, api.NotFound) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	k, err := s.Kernel(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", k)
	f, err := elf.Open(k.Vmlinux)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := os.Stat(filepath.Join(k.Modules, "kernel/drivers/block/virtio_blk.ko")); err != nil {
		t.Error(err)
	}
	config, err := os.ReadFile(k.Config)
	if err != nil || !strings.Contains(string(config), "CONFIG_PVH=y") {
		t.Errorf("config of %d bytes, %v", len(config), err)
	}
	// The cache is rebuilt when something of it is missing.
	if err := os.RemoveAll(k.Modules); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Kernel(t.Context(), "kernel/debian-cloud"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(k.Modules, "kernel")); err != nil {
		t.Error(err)
	}
	if _, err := s.Resolve(t.Context(), name); !api.IsKind(err, api.Invalid) {
		t.Errorf("a kernel as a root filesystem: %v", err)
	}
	list, err := s.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Type != image.TypeKernel {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := s.BootstrapKernel(t.Context(), "nonsense", "", nil); !api.IsKind(err, api.Invalid) {
		t.Error(err)
	}
}

// TestBootstrapCanceled is Ctrl-C in the middle: no file, process or mount stays.
func TestBootstrapCanceled(t *testing.T) {
	if testing.Short() || os.Getuid() != 0 {
		t.Skip("runs mmdebstrap, as root")
	}
	root := t.TempDir()
	s := openAt(t, root, image.Options{})
	before := files(t, root)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := s.Bootstrap(ctx, image.BootstrapOptions{Name: "debian:12", Progress: func(p api.Progress) {
		if strings.Contains(p.Text, "apt-get update") || strings.Contains(p.Text, "downloading") {
			cancel()
		}
	}})
	if api.IsKind(err, api.Unavailable) || api.IsKind(err, api.NotFound) {
		t.Skip(err)
	}
	if !api.IsKind(err, api.Canceled) {
		t.Errorf("got %s: %v", api.KindOf(err), err)
	}
	if d := cmp.Diff(before, files(t, root)); d != "" {
		t.Errorf("left behind: %s", d)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), root) {
		t.Errorf("a mount below %s is left, %v", root, err)
	}
	procs, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		if b, err := os.ReadFile(p); err == nil && strings.Contains(string(b), "TMPDIR="+root) {
			t.Errorf("a process is left: %s", p)
		}
	}
}

func TestBootstrap(t *testing.T) {
	if testing.Short() || os.Getuid() != 0 {
		t.Skip("takes a quarter of a minute, as root")
	}
	root := t.TempDir()
	s := openAt(t, root, image.Options{})
	name, err := s.Bootstrap(t.Context(), image.BootstrapOptions{Name: "debian-init:12", Tag: "with-ed", Include: []string{"ed"}, Progress: func(p api.Progress) {
		if p.Text != "" {
			t.Log(p.Text)
		}
	}})
	if api.IsKind(err, api.Unavailable) || api.IsKind(err, api.NotFound) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if name != "with-ed:latest" {
		t.Errorf("it is called %s", name)
	}
	img, err := s.Resolve(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	dir := mountLayer(t, img.Layers[0])
	if _, err := os.Stat(filepath.Join(dir, "usr/bin/ed")); err != nil {
		t.Errorf("the package to include: %v", err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "etc/debian_version"))
	if err != nil || !strings.HasPrefix(string(b), "12.") {
		t.Errorf("%q, %v", b, err)
	}
	for _, name := range []string{"etc/apt/apt.conf.d/99mmdebstrap", "etc/apt/sources.list.d/0000sources.list"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s is in the image", name)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "usr/lib/systemd/systemd")); err != nil {
		t.Errorf("an image that boots: %v", err)
	}
	sources, err := os.ReadFile(filepath.Join(dir, "etc/apt/sources.list"))
	if err != nil || strings.Contains(string(sources), "://") {
		t.Errorf("sources.list: %q, %v", sources, err)
	}
	if left, _ := os.ReadDir(filepath.Join(root, "tmp")); len(left) != 0 {
		t.Errorf("left in tmp: %v", left)
	}
}

func TestBootstrapRefuses(t *testing.T) {
	s := open(t)
	for _, o := range []image.BootstrapOptions{
		{Name: "debian:12", Tag: "x", Include: []string{"--hook=true"}},
		{Name: "debian:12", Tag: "x", Include: []string{"a,b"}},
		{Name: "debian:12", Tag: "UPPER"},
		{Name: "fedora:40"},
	} {
		_, err := s.Bootstrap(t.Context(), o)
		_, derr := s.BootstrapDisk(t.Context(), o)
		if err == nil || derr == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v: %v; as a disk: %v", o, err, derr)
		}
	}
}
