package link

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// within runs fn on a thread that is in the network namespace ns.
func within(ns int, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		back, err := visit(ns, fn)
		if back {
			runtime.UnlockOSThread()
		} // else the runtime ends the thread, which nobody may use any more
		done <- err
	}()
	return <-done
}

// visit enters ns, runs fn, and comes back, which it reports.
func visit(ns int, fn func() error) (back bool, err error) {
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return true, &os.PathError{Op: "open", Path: "/proc/thread-self/ns/net", Err: err}
	}
	defer unix.Close(home)
	if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
		return true, os.NewSyscallError("setns to the network namespace", err)
	}
	err = fn()
	return unix.Setns(home, unix.CLONE_NEWNET) == nil, err
}

// ContainerSysctls are what a container's network namespace gets beside the
// kernel's defaults: any user may bind low ports and send ping, since no port
// of the namespace is worth guarding from the container itself. Docker does
// the same (moby 20.10, "daemon: set net.ipv4.ping_group_range"). lastGroup is the
// last group id of the caller's user namespace: the kernel takes none that is not
// mapped there.
func ContainerSysctls(lastGroup uint32) map[string]string {
	return map[string]string{
		"net.ipv4.ip_unprivileged_port_start": "0",
		"net.ipv4.ping_group_range":           "0 " + strconv.FormatUint(uint64(min(lastGroup, math.MaxInt32)), 10),
	}
}

// Prepare brings loopback up in the namespace and sets its sysctls, whose
// names begin with "net.".
func Prepare(ns int, sysctls map[string]string) error {
	return within(ns, func() error {
		if err := raiseLoopback(); err != nil {
			return fmt.Errorf("bring up loopback: %w", err)
		}
		for name, value := range sysctls {
			if err := SetSysctl(name, value); err != nil {
				return err
			}
		}
		return nil
	})
}

// raiseLoopback does what "ip link set lo up" does by fewer system calls, netdevice(7)
// and not rtnetlink, since every container pays them.
func raiseLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return os.NewSyscallError("ioctl SIOCSIFFLAGS", unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo))
}

// SetSysctl sets a sysctl of the network namespace of the calling thread.
func SetSysctl(name, value string) error {
	path, err := sysctlPath(name)
	if err != nil {
		return err
	}
	// Not by package os, which tries to poll the file first.
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	_, err = unix.Write(fd, []byte(value))
	if err != nil {
		err = &os.PathError{Op: "write", Path: path, Err: err}
	}
	return errors.Join(err, unix.Close(fd))
}

// Sysctl returns a sysctl of the network namespace of the calling thread.
func Sysctl(name string) (string, error) {
	path, err := sysctlPath(name)
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile(path)
	return strings.TrimSpace(string(data)), err
}

// sysctlPath returns the file of a sysctl. Interface names may hold dots, so a
// name may be written with slashes, as sysctl(8) allows.
func sysctlPath(name string) (string, error) {
	if !strings.Contains(name, "/") {
		name = strings.ReplaceAll(name, ".", "/")
	}
	if !strings.HasPrefix(name, "net/") || filepath.Clean(name) != name {
		return "", fmt.Errorf("sysctl %q does not belong to the network", name)
	}
	return filepath.Join("/proc/sys", name), nil
}

// disableIPv6 switches IPv6 off on an interface. A kernel without IPv6 is fine.
func disableIPv6(name string) error {
	err := SetSysctl("net/ipv6/conf/"+name+"/disable_ipv6", "1")
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
