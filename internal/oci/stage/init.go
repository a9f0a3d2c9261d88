package stage

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/bundle"
	"github.com/berthcloud/berth/internal/oci/mount"
	"github.com/berthcloud/berth/internal/oci/wire"
)

// initStage makes fresh namespaces a container.
type initStage struct {
	*stage
	plan  wire.Init
	root  mount.Root
	state json.RawMessage // for hooks

	hostProc int // /proc of the host's mount tree: nothing in the image can forge it
	hostNull int // /dev/null of the host, verified
	devpts   int // the container's /dev/pts, or -1
	late     []int
}

// runInit turns this process into the container's first one.
func (s *stage) runInit() error {
	i := &initStage{stage: s, hostProc: -1, hostNull: -1, devpts: -1}
	files, err := s.conn.Receive(&i.plan)
	if err != nil {
		return err
	}
	s.files, s.proc = files, process{Process: i.plan.Process}
	s.listener = s.file(i.plan.StartFile)
	unix.Umask(0) // modes are meant as they stand in the plan
	for _, step := range []func() error{
		i.openHost,
		i.openReaper,
		func() error { return s.joinCgroups(i.plan.Process.CgroupFiles) },
		i.newCgroupNamespace,
		s.newSession,
		s.keyring,
		i.attachRoot,
		i.placeMounts,
		i.makeDevices,
		i.makeLinks,
		i.makeCwd,
		i.console,
		i.hookRound,
		i.maskPaths,
		i.readOnlyPaths,
		i.lateReadOnly,
		i.createContainerHooks,
		i.switchRoot,
		i.names,
		i.sysctls,
		i.prepareLSM,
		i.closeHost,
		s.resolveUser,
		s.lookPath,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	if err := s.conn.Send(wire.Report{Phase: wire.Ready, Warnings: s.warnings}); err != nil {
		return err
	}
	return i.awaitStart()
}

// openHost keeps what is needed of the host before the image can say what /proc
// and /dev/null are (CVE-2025-31133, CVE-2025-52881).
func (i *initStage) openHost() error {
	fd, err := unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		var st unix.Stat_t
		ok, perr := mount.IsProc(fd)
		if err = unix.Fstat(fd, &st); err == nil && (perr != nil || !ok || st.Ino != procRootInode) {
			err = fmt.Errorf("/proc is not a procfs")
		}
	}
	if err != nil {
		return fmt.Errorf("the host's /proc: %w", err)
	}
	i.hostProc = fd
	if len(i.plan.Masked) == 0 {
		return nil
	}
	null, err := unix.Open("/dev/null", unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("the host's /dev/null: %w", err)
	}
	i.hostNull = null
	return checkNull(null)
}

// procRootInode is PROC_ROOT_INO of the kernel.
const procRootInode = 1

// checkNull verifies /dev/null by its device number.
func checkNull(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("/dev/null: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3) {
		return fmt.Errorf("/dev/null is not the null device")
	}
	return nil
}

// newCgroupNamespace takes the cgroups just joined as the root of what the
// container sees; made by clone it would begin at the runtime's own.
func (i *initStage) newCgroupNamespace() error {
	if !i.plan.NewCgroup {
		return nil
	}
	return os.NewSyscallError("unshare of the cgroup namespace", unix.Unshare(unix.CLONE_NEWCGROUP))
}

// attachRoot puts the root filesystem on top of the host's tree, of which this
// mount namespace has a copy, so that pivot_root finds it.
func (i *initStage) attachRoot() error {
	fd := i.file(i.plan.RootFile)
	i.root = mount.Root{FD: fd}
	if i.plan.Chroot {
		return nil
	}
	// Nothing that a hook mounts may reach the host; what the host mounts may still
	// arrive where a bind mount is a slave. A bind mount that is to be shared must find
	// its source shared.
	if !slices.ContainsFunc(i.plan.Mounts, sharesMounts) {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
			return os.NewSyscallError("make the host's mounts slaves", err)
		}
	}
	// pivot_root wants the parents of both roots not shared.
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("make / private", err)
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("root filesystem: %w", os.NewSyscallError("move_mount", err))
	}
	return nil
}

func sharesMounts(m wire.Mount) bool { return m.Bind != nil && m.Bind.Prop&unix.MS_SHARED != 0 }

// switchRoot leaves the host's tree for good.
func (i *initStage) switchRoot() error {
	if err := unix.Fchdir(i.root.FD); err != nil {
		return fmt.Errorf("root filesystem: %w", err)
	}
	if i.plan.Chroot || i.plan.NoPivot {
		if err := unix.Chroot("."); err != nil {
			return os.NewSyscallError("chroot", err)
		}
		return os.NewSyscallError("chdir", unix.Chdir("/"))
	}
	// The old root ends up mounted on the new one and is detached from there: no
	// directory is needed for it. "." then still is the new one, whose mounts keep the
	// propagation they were given.
	old, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("the old root: %w", err)
	}
	defer unix.Close(old)
	if err := unix.PivotRoot(".", "."); err != nil {
		return os.NewSyscallError("pivot_root", err)
	}
	if err := unix.Fchdir(old); err != nil {
		return fmt.Errorf("the old root: %w", err)
	}
	if err := unix.Mount("", ".", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return os.NewSyscallError("make the old root a slave", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return os.NewSyscallError("unmount the old root", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return os.NewSyscallError("chdir", err)
	}
	if prop := i.plan.RootProp; prop != 0 {
		return os.NewSyscallError("propagation of /", unix.Mount("", "/", "", uintptr(prop), ""))
	}
	return nil
}

// closeHost closes everything that the steps above needed, before a path of the
// specification is looked up: /proc/self/fd/N as a working directory must find
// nothing (CVE-2024-21626).
func (i *initStage) closeHost() error {
	for n, fd := range i.files {
		if fd != i.listener {
			wire.CloseAll([]int{fd})
			i.files[n] = -1
		}
	}
	// The root is one of the files.
	wire.CloseAll([]int{i.hostProc, i.hostNull, i.devpts})
	i.hostProc, i.hostNull, i.devpts, i.root.FD = -1, -1, -1, -1
	return nil
}

func (i *initStage) names() error {
	if i.plan.Hostname != "" {
		if err := unix.Sethostname([]byte(i.plan.Hostname)); err != nil {
			return fmt.Errorf("hostname: %w", err)
		}
	}
	if i.plan.Domainname != "" {
		if err := unix.Setdomainname([]byte(i.plan.Domainname)); err != nil {
			return fmt.Errorf("domainname: %w", err)
		}
	}
	return nil
}

// sysctls writes through the host's procfs, whose files nothing in the container
// can have mounted over; the settings are those of this process's namespaces.
func (i *initStage) sysctls() error {
	for name, value := range i.plan.Sysctl {
		if err := writeProc(i.hostProc, "sys/"+bundle.SysctlPath(name), value); err != nil {
			return fmt.Errorf("linux.sysctl: %s=%s: %w", name, value, err)
		}
	}
	return nil
}

// writeProc writes to a file of a procfs, neither following links nor crossing
// mounts on the way.
func writeProc(proc int, path, value string) error {
	fd, err := unix.Openat2(proc, path, &unix.OpenHow{
		Flags:   unix.O_WRONLY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(value))
	return err
}

// makeCwd creates the working directory where the image lacks it, as runc does.
func (i *initStage) makeCwd() error {
	cwd := filepath.Clean(i.plan.Process.Cwd)
	if i.plan.Chroot || cwd == "/" {
		return nil
	}
	fd, err := i.root.Dir(cwd, 0o755)
	if err != nil {
		// On a read-only or foreign root it cannot be made; chdir has the last word.
		return nil
	}
	return unix.Close(fd)
}

// hookRound lets the runtime run its hooks and learns the container's state.
func (i *initStage) hookRound() error {
	if !i.plan.HookRound {
		return nil
	}
	if err := i.conn.Send(wire.Report{Phase: wire.Prepared}); err != nil {
		return err
	}
	var reply wire.Go
	_, err := i.conn.Receive(&reply)
	i.state = reply.State
	return err
}

func (i *initStage) createContainerHooks() error {
	return i.runHooks("createContainer", i.plan.Hooks.CreateContainer)
}
