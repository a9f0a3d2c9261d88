package stage

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/capability"
)

// becomeUser drops root: bounding set, groups, ids, then the other capability sets.
func (p *process) becomeUser() error {
	if err := dropBounding(capability.Mask(p.Caps.Bounding)); err != nil {
		return err
	}
	// Without this setresuid would clear the permitted set.
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl(PR_SET_KEEPCAPS)", err)
	}
	if err := p.setIDs(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 0, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl(PR_SET_KEEPCAPS)", err)
	}
	permitted, inheritable := capability.Mask(p.Caps.Permitted), capability.Mask(p.Caps.Inheritable)
	if err := capset(capability.Mask(p.Caps.Effective), permitted, inheritable); err != nil {
		return fmt.Errorf("process.capabilities: %w", err)
	}
	return setAmbient(capability.Mask(p.Caps.Ambient) & permitted & inheritable)
}

func (p *process) setIDs() error {
	if p.SetGroups {
		list := p.groups
		ids := make([]int, len(list))
		for i, g := range list {
			ids[i] = int(g)
		}
		if err := unix.Setgroups(ids); err != nil {
			return fmt.Errorf("process.user.additionalGids: %w", err)
		}
	}
	// Raw calls: those of package unix change every thread of the process, for which
	// the Go runtime stops the world. Only this thread outlives execve.
	gid, uid := uintptr(p.GID), uintptr(p.UID)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); errno != 0 {
		return fmt.Errorf("process.user.gid: %d: %w", gid, errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); errno != 0 {
		return fmt.Errorf("process.user.uid: %d: %w", uid, errno)
	}
	return nil
}

func dropBounding(keep uint64) error {
	for c := uintptr(0); c <= capability.Max; c++ {
		if keep&(1<<c) != 0 {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if err == unix.EINVAL {
			return nil // beyond the last capability of this kernel
		}
		if err != nil {
			return fmt.Errorf("process.capabilities.bounding: dropping %s: %w", capability.Name(int(c)), err)
		}
	}
	return nil
}

func capset(effective, permitted, inheritable uint64) error {
	var data [2]unix.CapUserData
	for i := range data {
		shift := 32 * i
		data[i] = unix.CapUserData{
			Effective:   uint32(effective & permitted >> shift),
			Permitted:   uint32(permitted >> shift),
			Inheritable: uint32(inheritable >> shift),
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	return os.NewSyscallError("capset", unix.Capset(&header, &data[0]))
}

func setAmbient(set uint64) error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl(PR_CAP_AMBIENT)", err)
	}
	for c := uintptr(0); c <= capability.Max; c++ {
		if set&(1<<c) == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, c, 0, 0); err != nil {
			return fmt.Errorf("process.capabilities.ambient: %s: %w", capability.Name(int(c)), err)
		}
	}
	return nil
}
