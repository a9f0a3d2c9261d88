package rootless

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Hold is the process that keeps the namespaces it was started in, until it is asked
// to end and nobody else is in them. It calls ready once it answers.
func Hold(ctx context.Context, dir string, ready func()) error {
	// As the mount namespace is in another user namespace than the host's, its mounts
	// are slaves of those: nothing mounted here gets out (mount_namespaces(7)).
	if err := setResolver(dir); err != nil {
		return err
	}
	if err := openNetwork(); err != nil {
		return err
	}
	l, err := listen(dir, holdSocket)
	if err != nil {
		return err
	}
	ready()
	return serve(ctx, l, func(_ context.Context, r request) ([]*os.File, error) {
		switch {
		case r.Op == opNamespaces:
			return openNamespaces("/proc/self/ns/")
		case r.Op == opConnect && len(r.Ports) == 1:
			f, err := connect(r.Ports[0].Network, r.From, r.Ports[0].To)
			if err != nil {
				return nil, err
			}
			return []*os.File{f}, nil
		case r.Op == opEnd:
			return nil, alone()
		}
		return nil, fmt.Errorf("unknown operation %q", r.Op)
	})
}

// openNamespaces opens the namespaces in a directory of /proc, in the order in which
// they are to be entered.
func openNamespaces(dir string) ([]*os.File, error) {
	var files []*os.File
	for _, name := range []string{"user", "mnt", "net"} {
		f, err := os.Open(dir + name)
		if err != nil {
			closeFiles(files)
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// alone fails where another process is in this mount namespace: a daemon, or the
// keeper of instances that still run.
func alone() error {
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if ns, err := os.Readlink(filepath.Join("/proc", e.Name(), "ns/mnt")); err != nil || ns != own {
			continue
		}
		if !endsSoon(pid) {
			return fmt.Errorf("process %d is in the namespaces", pid)
		}
	}
	return nil
}

// keeperGrace is how long a keeper that was told to end may take.
const keeperGrace = 300 // milliseconds

// endsSoon reports whether a process ends within keeperGrace.
func endsSoon(pid int) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return errors.Is(err, unix.ESRCH)
	}
	defer unix.Close(fd)
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, keeperGrace)
	return err == nil && n == 1
}

// setResolver makes pasta the name server of the inside: the host's own may be on its
// loopback.
func setResolver(dir string) error {
	path := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(path, []byte("nameserver "+gateway.String()+"\n"), 0o644); err != nil {
		return err
	}
	const target = "/etc/resolv.conf"
	err := unix.Mount(path, target, "", unix.MS_BIND, "")
	if err == nil || errors.Is(err, os.ErrNotExist) { // the host has no name server either
		return nil
	}
	return &os.PathError{Op: "mount", Path: target, Err: err}
}

// connect returns a socket that is connecting to an address from another one, which
// need not be of this network namespace.
func connect(network string, from, to netip.AddrPort) (*os.File, error) {
	kind := unix.SOCK_STREAM
	if network == "udp" {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), network)
	if from.IsValid() {
		err = errors.Join(
			os.NewSyscallError("IP_TRANSPARENT", unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1)),
			os.NewSyscallError("SO_MARK", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, markOut)),
			// The client's port may still be in use by its last connection.
			os.NewSyscallError("SO_REUSEADDR", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)),
			os.NewSyscallError("bind", unix.Bind(fd, sockaddr(from))),
		)
	}
	if err == nil {
		if err = unix.Connect(fd, sockaddr(to)); errors.Is(err, unix.EINPROGRESS) {
			err = nil
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	return &unix.SockaddrInet4{Addr: a.Addr().Unmap().As4(), Port: int(a.Port())}
}
