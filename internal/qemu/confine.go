package qemu

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/seccomp"
)

// confine leaves the host behind, before QEMU's first instruction. A guest that takes
// QEMU over finds
//
//   - a root with QEMU's own files, read-only, and what the plan shows beside them;
//     neither /proc nor /sys, and no device but the plan's and /dev/null, on which
//     QEMU tries how files are locked,
//   - no network, and no IPC, host name or cgroups but its own; and no other process,
//     where its keeper has given it a pid namespace,
//   - no capability, nor a way to one (bounding set, no_new_privs), and a user that has
//     nothing else on the host,
//   - Landlock, where the kernel has it: the same files once more,
//   - a filter of system calls.
//
// The order matters: each step takes rights that a later one gives up.
func confine(plan *Plan) error {
	groups, err := groupsOf(plan.Devices)
	if err != nil {
		return err
	}
	shown := append(append([]Shown(nil), plan.Program...), plan.Shown...)
	for _, device := range append([]string{os.DevNull}, plan.Devices...) {
		shown = append(shown, Shown{Path: device, Mode: "dev"})
	}
	root, err := newRoot()
	if err != nil {
		return err
	}
	for _, s := range shown {
		if err := show(root, s); err != nil {
			return err
		}
	}
	if err := enterRoot(root); err != nil {
		return err
	}
	if err := limit(plan); err != nil {
		return err
	}
	if err := renounce(0); err != nil {
		return err
	}
	if plan.UID != 0 {
		uid := int(plan.UID)
		if err := errors.Join(syscall.Setgroups(groups), syscall.Setresgid(uid, uid, uid), syscall.Setresuid(uid, uid, uid)); err != nil {
			return fmt.Errorf("become user %d: %w", uid, err)
		}
	}
	if err := landlock(shown); err != nil {
		return err
	}
	return filter()
}

// groupsOf returns the groups whose members may use devices.
func groupsOf(devices []string) (groups []int, err error) {
	groups = []int{}
	for _, device := range devices {
		var info unix.Stat_t
		if err := unix.Stat(device, &info); err != nil {
			return nil, &os.PathError{Op: "stat", Path: device, Err: err}
		}
		if info.Mode&0o006 == 0o006 {
			continue // everybody may open it
		}
		if info.Gid == 0 || info.Mode&0o060 != 0o060 {
			return nil, fmt.Errorf("%s is open to root only: let a group of its own read and write it (udev's default is kvm)", device)
		}
		groups = append(groups, int(info.Gid))
	}
	return groups, nil
}

// limit sets resource limits: no core with the guest's memory in it, no message
// queues, and what the plan says, where that is not 0.
func limit(plan *Plan) error {
	limits := map[int]int64{unix.RLIMIT_CORE: 0, unix.RLIMIT_MSGQUEUE: 0}
	for resource, most := range map[int]int64{
		unix.RLIMIT_FSIZE: plan.MaxFile, unix.RLIMIT_AS: plan.MaxMemory, unix.RLIMIT_CPU: plan.MaxTime,
	} {
		if most != 0 {
			limits[resource] = most
		}
	}
	for resource, most := range limits {
		limit := unix.Rlimit{Cur: uint64(most), Max: uint64(most)}
		if resource == unix.RLIMIT_FSIZE {
			// It may be raised, by RaiseFileLimit; not by the process itself: see filter.
			var have unix.Rlimit
			if err := unix.Getrlimit(resource, &have); err != nil {
				return fmt.Errorf("getrlimit %d: %w", resource, err)
			}
			limit = unix.Rlimit{Cur: min(limit.Cur, have.Max), Max: have.Max}
		}
		if err := unix.Setrlimit(resource, &limit); err != nil {
			return fmt.Errorf("setrlimit %d: %w", resource, err)
		}
	}
	return nil
}

// renounce gives up for good all capabilities but those of a set. Of a process of root
// execve would give back what its bounding set holds.
func renounce(keep uint64) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("no_new_privs", err)
	}
	for c := uintptr(0); ; c++ {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0)
		if err != nil {
			return nil // the kernel has no more
		}
		if has == 0 || keep>>c&1 == 1 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
}

// filter installs a seccomp filter under QEMU's own, which forbids it execve too, but
// knows of no sockets: those of AF_VSOCK lead out of every network namespace.
func filter() error {
	program, err := seccomp.Compile(&specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Syscalls: []specs.LinuxSyscall{
			{Names: []string{"socket"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 0, Value: unix.AF_UNIX, Op: specs.OpNotEqual}}},
			// Threads, but no processes. Of clone3 a filter sees no flags; the C library
			// falls back to clone.
			{Names: []string{"clone"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 0, Value: unix.CLONE_THREAD, ValueTwo: 0, Op: specs.OpMaskedEqual}}},
			{Names: []string{"clone3"}, Action: specs.ActErrno, ErrnoRet: new(uint(unix.ENOSYS))},
			// How large a file may be is Berth's to say: the soft limit alone holds it.
			{Names: []string{"setrlimit"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 0, Value: unix.RLIMIT_FSIZE, Op: specs.OpEqualTo}}},
			{Names: []string{"prlimit64"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{
				{Index: 1, Value: unix.RLIMIT_FSIZE, Op: specs.OpEqualTo}, {Index: 2, Value: 0, Op: specs.OpNotEqual},
			}},
			{Names: refused(), Action: specs.ActErrno},
		},
	})
	if err != nil {
		return err
	}
	return os.NewSyscallError("seccomp", seccompFilter(seccomp.Encode(program)))
}

// refused names system calls by which kernels have fallen and that QEMU, with all it
// needs in hand, can do without. It falls back where io_uring is not to be had.
func refused() []string {
	return []string{
		"fork", "vfork", "add_key", "keyctl", "request_key",
		"bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register",
		"ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "pidfd_open", "pidfd_getfd",
		"mount", "umount2", "mount_setattr", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick", "pivot_root", "chroot",
		"unshare", "setns", "name_to_handle_at", "open_by_handle_at", "fanotify_init", "quotactl", "quotactl_fd", "swapon", "swapoff",
		"init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "acct", "syslog",
		"settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname", "vhangup", "personality",
		"ioperm", "iopl", "modify_ldt",
	}
}
