package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/disk"
)

// bootDiskSize is the size of a disk that BootstrapDisk makes, in bytes. A machine's own
// is larger, and the guest grows into it.
const bootDiskSize = 2 << 30

// diskKernels are the kernels of disks, by the name of the image: Debian's cloud
// kernel, and the standard one with drivers of devices that are emulated in full.
var diskKernels = map[string]string{"debian": "linux-image-cloud-amd64", "debian-standard": "linux-image-amd64"}

// diskPackages make of a minimal Debian a machine that boots.
var diskPackages = []string{"systemd-sysv", "udev", "dbus", "kmod", "e2fsprogs", "initramfs-tools", "iproute2", "login", "procps", "ca-certificates"}

// BootstrapDisk makes a disk image from Debian's packages, as disk/debian:12 of
// debian:12: one that BIOS and UEFI start, with a serial console, berth-agent as a
// service, and a root filesystem that grows with its disk. Packages come from where
// Bootstrap gets them. It returns the name. Nobody can log in but by berth exec.
func (s *Store) BootstrapDisk(ctx context.Context, o BootstrapOptions) (string, error) {
	const op = "bootstrap"
	made, err := s.bootstrapDisk(ctx, o)
	return made, api.E(op, "", o.Name, diskFull(err))
}

func (s *Store) bootstrapDisk(ctx context.Context, o BootstrapOptions) (string, error) {
	if runtime.GOARCH != "amd64" {
		return "", api.E("", api.Unsupported, "", errors.New("disks are made for amd64 only; get another with berth image import"))
	}
	suite, kernel, full, err := diskSuite(o.Name)
	if err != nil {
		return "", err
	}
	if tag, err := o.tag(); err != nil {
		return "", err
	} else if o.Tag != "" {
		full = tag
	}
	agent, err := os.ReadFile(s.opt.Agents[runtime.GOARCH])
	if err != nil {
		return "", fmt.Errorf("the guest agent is not installed: %w", err)
	}
	ctx, done, err := s.work(ctx)
	if err != nil {
		return "", err
	}
	defer s.finish(ctx, done)
	dir, err := os.MkdirTemp(filepath.Join(s.root, "tmp"), "bootdisk-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	b := diskBuild{dir: dir, size: bootDiskSize, boot: "/boot/grub", suite: suite, kernel: kernel, include: o.Include, agent: agent, made: epoch(), progress: o.Progress}
	b.uuid = uuidOf(fmt.Sprintf("%s %d", full, b.made.Unix()))
	if err := b.run(ctx); err != nil {
		return "", err
	}
	opt := DiskOptions{Firmware: api.FirmwareBIOS, Agent: true, Created: b.made, Progress: o.Progress}
	return Familiar(full), s.storeDisk(ctx, full, b.path("disk"), opt)
}

// uuidOf makes a UUID of a text (RFC 9562, version 8).
func uuidOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

// epoch is the time of all that is made: SOURCE_DATE_EPOCH, or this day's beginning.
func epoch() time.Time {
	if n, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64); err == nil {
		return time.Unix(n, 0).UTC()
	}
	return time.Now().UTC().Truncate(24 * time.Hour)
}

// diskSuite returns what an image's name means: Debian's suite, the kernel's package,
// and the name in full.
func diskSuite(name string) (suite, kernel, full string, err error) {
	if full, err = tagName("disk/" + strings.TrimPrefix(name, "disk/")); err != nil {
		return "", "", "", err
	}
	repository, tag, _ := strings.Cut(strings.TrimPrefix(Familiar(full), "disk/"), ":")
	kernel, known := diskKernels[repository]
	if !known {
		return "", "", "", api.E("", api.Unsupported, "", errors.New("disks are made of Debian only, as debian:12, or debian-standard:12 for --virt full; get others with berth image import"))
	}
	suite, _, err = suiteOf("debian:" + tag)
	return suite, kernel, full, err
}

// diskBuild is a disk being made in a directory.
type diskBuild struct {
	dir, suite, kernel, uuid string
	size                     int64    // of the disk, bytes
	boot                     string   // the directory of GRUB's configuration on it
	include                  []string // packages beyond those that every disk has
	agent                    []byte
	made                     time.Time
	progress                 Progress
}

func (b *diskBuild) path(name string) string { return filepath.Join(b.dir, name) }

func (b *diskBuild) run(ctx context.Context) error {
	for _, step := range []func(context.Context) error{b.unpack, b.makeRoot, b.makeESP, b.assemble} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// command prepares a program whose output depends on nothing but its input.
func (b *diskBuild) command(ctx context.Context, name string, args ...string) *command {
	c := newCommand(ctx, b.progress, b.dir, name, args...)
	c.Stdout = c.Stderr
	seconds := strconv.FormatInt(b.made.Unix(), 10)
	c.Env = append(c.Env, "TMPDIR="+b.dir, "SOURCE_DATE_EPOCH="+seconds, "E2FSPROGS_FAKE_TIME="+seconds)
	return c
}

func (b *diskBuild) do(ctx context.Context, name string, args ...string) error {
	c := b.command(ctx, name, args...)
	return c.explain(ctx, c.Run())
}

// unpack makes the root filesystem as a directory.
func (b *diskBuild) unpack(ctx context.Context) error {
	sources, err := hostSources(ctx, b.suite)
	if err != nil {
		return err
	}
	aptopts, err := hostProxy(ctx)
	if err != nil {
		return err
	}
	list := b.path("sources.list")
	if err := os.WriteFile(list, []byte(sources), 0o600); err != nil {
		return err
	}
	for name, files := range map[string]map[string]string{"early": diskEarly, "late": b.files()} {
		if err := writeTree(b.path(name), files); err != nil {
			return err
		}
	}
	agent := b.path("late/usr/local/sbin/" + agentName)
	if err := errors.Join(os.MkdirAll(filepath.Dir(agent), 0o755), os.WriteFile(agent, b.agent, 0o600), os.Chmod(agent, 0o755)); err != nil {
		return err
	}
	packages := slices.Concat([]string{b.kernel}, diskPackages, b.include)
	args := bootstrapArgs(b.suite, packages, list, aptopts)
	for i, arg := range args {
		switch arg {
		case "--format=tar":
			args[i] = "--format=directory"
		case "-":
			args[i] = b.path("root")
		}
	}
	args = append([]string{
		`--essential-hook=cp -a "` + b.path("early") + `/." "$1/"`,
		`--customize-hook=cp -a "` + b.path("late") + `/." "$1/"`,
	}, args...)
	c := b.command(ctx, "mmdebstrap", args...)
	c.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS // as for Bootstrap
	return c.explain(ctx, c.Run())
}

// makeFile makes the disk, which is empty.
func (b *diskBuild) makeFile() error {
	f, err := os.OpenFile(b.path("disk"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(b.size), f.Close())
}

// makeRoot makes the root filesystem of the directory, in its place on the disk.
func (b *diskBuild) makeRoot(ctx context.Context) error {
	if err := b.makeFile(); err != nil {
		return err
	}
	c := b.mkfs(ctx, b.path("root"))
	return c.explain(ctx, c.Run())
}

// mkfs is what fills the root filesystem from a tree. What it makes is known to GRUB 2.06 and
// the e2fsck of an older guest. The seed of directories' hashes is no secret here:
// everybody has this image.
func (b *diskBuild) mkfs(ctx context.Context, tree string, args ...string) *command {
	args = append([]string{"-q", "-F", "-L", "root", "-U", b.uuid, "-m", "1", "-b", "4096", "-O", "^orphan_file,^metadata_csum_seed",
		"-E", fmt.Sprintf("offset=%d,hash_seed=%s,nodiscard,lazy_itable_init=1,lazy_journal_init=1", disk.RootOffset, b.uuid)}, args...)
	return b.command(ctx, "mkfs.ext4", append(args, "-d", tree, b.path("disk"), fmt.Sprintf("%dk", disk.RootSize(b.size)>>10))...)
}

// grubModules are what GRUB needs to find and start a kernel on ext4.
var grubModules = []string{"part_gpt", "ext2", "normal", "configfile", "linux", "search", "search_fs_uuid", "serial", "terminal", "echo", "test"}

// grub makes an image of GRUB for a platform, with all it needs in it.
func (b *diskBuild) grub(ctx context.Context, platform, name string, modules ...string) ([]byte, error) {
	dir := "/usr/lib/grub/" + platform
	if _, err := os.Stat(dir); err != nil {
		return nil, api.E("", api.Unsupported, "", fmt.Errorf("GRUB for %s is missing; install the packages grub-pc-bin and grub-efi-amd64-bin", platform))
	}
	early := b.path("grub.cfg")
	if err := os.WriteFile(early, []byte(fmt.Sprintf(grubEarly, b.uuid, b.boot)), 0o600); err != nil {
		return nil, err
	}
	args := append([]string{"-O", platform, "-d", dir, "-c", early, "-p", "/boot/grub", "-o", b.path(name)}, append(modules, grubModules...)...)
	if err := b.do(ctx, "grub-mkimage", args...); err != nil {
		return nil, err
	}
	return os.ReadFile(b.path(name))
}

func (b *diskBuild) makeESP(ctx context.Context) error {
	efi, err := b.grub(ctx, "x86_64-efi", "boot.efi")
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(b.uuid))
	return disk.CreateFAT(ctx, b.path("esp"), disk.FAT{
		Label: "EFI", ID: uint32(sum[0])<<24 | uint32(sum[1])<<16 | uint32(sum[2])<<8 | uint32(sum[3]), Size: disk.ESPSize, Time: b.made,
		Files: map[string][]byte{"EFI/BOOT/BOOTX64.EFI": efi}, // what UEFI starts where nothing else is said (2.10, 3.5.1.1)
	})
}

// assemble puts the parts together.
func (b *diskBuild) assemble(ctx context.Context) error {
	core, err := b.grub(ctx, "i386-pc", "core.img", "biosdisk")
	if err != nil {
		return err
	}
	boot, err := os.ReadFile("/usr/lib/grub/i386-pc/boot.img")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(b.path("disk"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	parts := disk.BootDisk{Size: b.size, Boot: boot, Core: core, ESP: b.path("esp")}
	return errors.Join(parts.Write(f), f.Close())
}

// writeTree writes files below dir, by their paths.
func writeTree(dir string, files map[string]string) error {
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if target, link := cutLink(content); link {
			if err := os.Symlink(target, path); err != nil {
				return err
			}
			continue
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}
