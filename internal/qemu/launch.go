package qemu

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Launch carries out a plan in this process, which becomes QEMU. It returns
// only an error. The process should do nothing else: it gives up its user, its
// capabilities and its namespaces. Run as root it
//
//   - opens the plan's files and attaches its tap devices,
//   - makes and binds the plan's sockets, and connects to its helpers',
//   - leaves the host's network, mounts, IPC and host name for namespaces of its own,
//   - becomes the plan's user, without a way back (no_new_privs),
//   - executes QEMU, whose seccomp filter closes the rest.
func Launch(plan *Plan) error {
	if len(plan.Args) == 0 {
		return errors.New("the plan has no command")
	}
	for _, f := range plan.Files {
		if err := openFile(f); err != nil {
			return err
		}
	}
	for _, s := range plan.Sockets {
		if err := listen(s); err != nil {
			return err
		}
	}
	for _, s := range plan.Connect {
		if err := connect(s); err != nil {
			return err
		}
	}
	for _, t := range plan.Taps {
		if err := attachTap(t); err != nil {
			return err
		}
	}
	if err := unspare(); err != nil {
		return err
	}
	if os.Getuid() == 0 {
		if err := confine(plan); err != nil {
			return err
		}
	}
	if err := limit(plan); err != nil {
		return err
	}
	err := syscall.Exec(plan.Args[0], plan.Args, []string{"PATH=/usr/bin:/bin", "LC_ALL=C"})
	return &os.PathError{Op: "execute", Path: plan.Args[0], Err: err}
}

// limit sets the limits of the plan's program.
func limit(plan *Plan) error {
	for resource, most := range map[int]int64{
		unix.RLIMIT_FSIZE: plan.MaxFile, unix.RLIMIT_AS: plan.MaxMemory, unix.RLIMIT_CPU: plan.MaxTime,
	} {
		if most == 0 {
			continue
		}
		if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: uint64(most), Max: uint64(most)}); err != nil {
			return os.NewSyscallError("setrlimit", err)
		}
	}
	return nil
}

// unspare makes this process as likely as any other to be killed when memory ends:
// berthd and its keeper are spared, and pass that on.
func unspare() error {
	const file = "/proc/self/oom_score_adj"
	score, err := os.ReadFile(file)
	if err != nil || !bytes.HasPrefix(score, []byte("-")) {
		return err
	}
	return os.WriteFile(file, []byte("0"), 0o644)
}

// DecodePlan reads what Encode wrote.
func DecodePlan(data []byte) (*Plan, error) {
	var p Plan
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, fmt.Errorf("QEMU's plan: %w", err)
	}
	return &p, nil
}

// place moves fd to want, open across exec.
func place(fd, want int) error {
	if fd == want {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0)
		return os.NewSyscallError("fcntl", err)
	}
	defer unix.Close(fd)
	return os.NewSyscallError("dup", unix.Dup3(fd, want, 0))
}

// openFile opens a file as the caller, usually root.
func openFile(f File) error {
	mode, known := map[string]int{"r": unix.O_RDONLY, "a": unix.O_WRONLY | unix.O_APPEND, "rw": unix.O_RDWR}[f.Mode]
	if !known {
		return fmt.Errorf("%s: unknown mode %q", f.Path, f.Mode)
	}
	fd, err := unix.Open(f.Path, mode|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: f.Path, Err: err}
	}
	return place(fd, f.FD)
}

// listen makes a socket. It is bound through its directory's descriptor,
// because a path of more than 107 bytes does not fit a socket address.
func listen(s Socket) error {
	dir, err := unix.Open(filepath.Dir(s.Path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: filepath.Dir(s.Path), Err: err}
	}
	defer unix.Close(dir)
	if err := os.Remove(s.Path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	name := fmt.Sprintf("/proc/self/fd/%d/%s", dir, filepath.Base(s.Path))
	old := unix.Umask(0o177)
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: name})
	unix.Umask(old)
	if err == nil {
		err = unix.Listen(fd, 8)
	}
	if err != nil {
		unix.Close(fd)
		return &os.PathError{Op: "listen", Path: s.Path, Err: err}
	}
	return place(fd, s.FD)
}

// connectTimeout bounds the wait for a helper that was started just before.
const connectTimeout = 10 * time.Second

// connect connects to a helper's socket, which may not exist yet.
func connect(s Socket) error {
	dir, err := unix.Open(filepath.Dir(s.Path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: filepath.Dir(s.Path), Err: err}
	}
	defer unix.Close(dir)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	address := &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir, filepath.Base(s.Path))}
	deadline := time.Now().Add(connectTimeout)
	for {
		err = unix.Connect(fd, address)
		waiting := errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EINTR)
		if !waiting || time.Now().After(deadline) {
			break
		}
		<-time.After(time.Millisecond)
	}
	if err != nil {
		unix.Close(fd)
		return &os.PathError{Op: "connect", Path: s.Path, Err: err}
	}
	return place(fd, s.FD)
}

// attachTap attaches to an existing tap device.
func attachTap(t Tap) error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
	}
	request, err := unix.NewIfreq(t.Name)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("tap device %s: %w", t.Name, err)
	}
	return place(fd, t.FD)
}

// confine leaves the host behind. The order matters: namespaces need the
// capabilities that go with the user.
func confine(plan *Plan) error {
	if err := leaveMounts(unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("no_new_privs", err)
	}
	if plan.UID == 0 {
		return nil
	}
	groups := []int{}
	for _, device := range plan.Devices {
		var info unix.Stat_t
		if err := unix.Stat(device, &info); err != nil {
			return &os.PathError{Op: "stat", Path: device, Err: err}
		}
		if info.Mode&0o006 == 0o006 {
			continue // everybody may open it
		}
		if info.Gid == 0 || info.Mode&0o060 != 0o060 {
			return fmt.Errorf("%s is open to root only: let a group of its own read and write it (udev's default is kvm)", device)
		}
		groups = append(groups, int(info.Gid))
	}
	uid := int(plan.UID)
	if err := errors.Join(syscall.Setgroups(groups), syscall.Setresgid(uid, uid, uid), syscall.Setresuid(uid, uid, uid)); err != nil {
		return fmt.Errorf("become user %d: %w", uid, err)
	}
	return nil
}

// leaveMounts enters a mount namespace of its own, and the other new
// namespaces that flags ask for. What is mounted there stays there.
func leaveMounts(flags int) error {
	if err := unix.Unshare(unix.CLONE_NEWNS | flags); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	return os.NewSyscallError("make mounts private", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
}
