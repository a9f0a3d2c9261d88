package spawn

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cloneArgs is struct clone_args of clone3(2), version 2 (Linux 5.7).
type cloneArgs struct {
	flags, pidFD, childTID, parentTID, exitSignal uint64
	stack, stackSize, tls, setTID, setTIDSize     uint64
	cgroup                                        uint64
}

// The three hooks that syscall.forkExec itself uses around its fork. The runtime
// documents them as linknamed by others ("hall of shame": gVisor), hence stable.

//go:linkname runtimeBeforeFork syscall.runtime_BeforeFork
func runtimeBeforeFork()

//go:linkname runtimeAfterFork syscall.runtime_AfterFork
func runtimeAfterFork()

//go:linkname runtimeAfterForkInChild syscall.runtime_AfterForkInChild
func runtimeAfterForkInChild()

// fork clones the calling thread and runs the steps in the child. It returns in
// the parent only.
//
// After the clone the child owns one thread and a copy of the memory, but no
// runtime: it must not grow the stack, allocate, lock or be preempted. So
// everything happens in this one frame, and only RawSyscall, which never splits
// the stack, is called.
//
//go:noinline
//go:norace
//go:nocheckptr
func fork(args *cloneArgs, steps []step, status int) (int, syscall.Errno) {
	var (
		pid, r1     uintptr
		errno       syscall.Errno
		i           int
		s           *step
		b           [1]byte
		out         report
		cloneLength = unsafe.Sizeof(*args)
	)
	syscall.ForkLock.Lock()
	runtimeBeforeFork()
	pid, _, errno = syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), cloneLength, 0)
	if errno != 0 || pid != 0 {
		runtimeAfterFork()
		syscall.ForkLock.Unlock()
		return int(pid), errno
	}

	// From here on we are the child.
	runtimeAfterForkInChild()
	for i = 0; i < len(steps); i++ {
		s = &steps[i]
		switch s.kind {
		case kindCall:
			r1, _, errno = syscall.RawSyscall6(s.nr, s.args[0], s.args[1], s.args[2], s.args[3], s.args[4], s.args[5])
		case kindTry:
			_, _, _ = syscall.RawSyscall6(s.nr, s.args[0], s.args[1], s.args[2], s.args[3], s.args[4], s.args[5])
		case kindLast:
			r1, _, errno = syscall.RawSyscall6(s.nr, r1, s.args[1], s.args[2], s.args[3], s.args[4], s.args[5])
		case kindRead:
			r1, _, errno = syscall.RawSyscall(unix.SYS_READ, s.args[0], uintptr(unsafe.Pointer(&b[0])), 1)
			if errno == 0 && r1 != 1 {
				errno = syscall.ECANCELED
			}
		case kindClone:
			r1, _, errno = syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(s.clone)), cloneLength, 0)
			if errno == 0 && r1 != 0 {
				out = report{-1, int32(r1)}
				_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, uintptr(status), uintptr(unsafe.Pointer(&out)), reportSize)
				for {
					_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
				}
			}
		}
		if errno != 0 {
			break
		}
	}
	out = report{int32(i), int32(errno)}
	_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, uintptr(status), uintptr(unsafe.Pointer(&out)), reportSize)
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 253, 0, 0)
	}
}

// decodeReport reads what fork wrote, in the machine's byte order.
func decodeReport(b [reportSize]byte) report { return *(*report)(unsafe.Pointer(&b)) }

// await adds the wait for the parent's byte.
func (p *program) await(fd int) {
	p.steps = append(p.steps, step{name: "wait for the runtime", kind: kindRead, args: [6]uintptr{uintptr(fd)}})
}

// exec adds execveat(exe, "", args, env, AT_EMPTY_PATH).
func (p *program) exec(exe int, args, env []string) {
	argv, envp, empty := pointers(args), pointers(env), new(byte)
	p.memory = append(p.memory, argv, envp, empty)
	p.call("execveat", unix.SYS_EXECVEAT, uintptr(exe), uintptr(unsafe.Pointer(empty)),
		uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&envp[0])), unix.AT_EMPTY_PATH)
}

// timeNamespace adds unshare(CLONE_NEWTIME), which takes effect in children, and the
// offsets, which must be written before the first of them exists. The file stays
// open until execveat closes it.
func (p *program) timeNamespace(offsets string) {
	p.call("unshare of the time namespace", unix.SYS_UNSHARE, unix.CLONE_NEWTIME)
	if offsets == "" {
		return
	}
	path, text := pointers([]string{"/proc/self/timens_offsets"})[0], []byte(offsets)
	p.memory = append(p.memory, path, text)
	at := unix.AT_FDCWD
	p.call("open timens_offsets", unix.SYS_OPENAT, uintptr(at), uintptr(unsafe.Pointer(path)), unix.O_WRONLY|unix.O_CLOEXEC)
	p.steps = append(p.steps, step{
		name: "write timens_offsets", kind: kindLast, nr: unix.SYS_WRITE,
		args: [6]uintptr{0, uintptr(unsafe.Pointer(&text[0])), uintptr(len(text))},
	})
}

// pointers makes a NULL-terminated array of C strings. A string with a NUL in it is cut there.
func pointers(list []string) []*byte {
	p := make([]*byte, len(list)+1)
	for i, s := range list {
		b := make([]byte, len(s)+1)
		copy(b, s)
		p[i] = &b[0]
	}
	return p
}
