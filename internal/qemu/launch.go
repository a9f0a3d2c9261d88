package qemu

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Launch carries out a plan in this process, which becomes QEMU. It returns
// only an error. The process should do nothing else: it gives up its user, its
// capabilities and its namespaces. Run as root it
//
//   - enters the cgroups, which are directories of version 1, so that what it takes from
//     here on counts there, and QEMU with all it does,
//   - opens the plan's files and attaches its tap devices,
//   - makes and binds the plan's sockets, and connects to its helpers',
//   - confines itself: see confine,
//   - executes QEMU, whose own seccomp filter forbids it new processes.
func Launch(plan *Plan, cgroups []string) error {
	if len(plan.Args) == 0 {
		return errors.New("the plan has no command")
	}
	// What follows is partly of this thread alone, which executes QEMU at the end.
	runtime.LockOSThread()
	for _, dir := range cgroups {
		if err := enter(dir); err != nil {
			return fmt.Errorf("enter cgroup %s: %w", dir, err)
		}
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
	if err := confine(plan); err != nil {
		return fmt.Errorf("confine QEMU: %w", err)
	}
	return become(plan.Args)
}

// enter has this thread, and so what it becomes, in a cgroup of version 1. Where a whole
// process enters, the kernel holds up all forks, and waits for RCU: a millisecond in each
// hierarchy (cgroup_procs_write_start).
func enter(cgroup string) error {
	file, err := os.OpenFile(filepath.Join(cgroup, "tasks"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString("0")
	return errors.Join(err, file.Close())
}

// become executes a program in this process's place.
func become(args []string) error {
	err := syscall.Exec(args[0], args, []string{"PATH=/usr/bin:/bin", "LC_ALL=C"})
	return &os.PathError{Op: "execute", Path: args[0], Err: err}
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
