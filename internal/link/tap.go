package link

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Tap is a device whose frames a program sends and receives (QEMU).
type Tap struct {
	Name     string // at most 15 bytes
	Bridge   string // it becomes a port of it
	Isolated bool   // the port does not talk to other isolated ports
	Owner    int    // the user who may open it
	MTU      int    // 0 for the bridge's
}

// MakeTap makes the device, up and persistent: it stays until Delete. An
// existing one is replaced; a program that has it open loses its network. On
// failure nothing is left.
//
// QEMU opens it by name, with vnet_hdr=on for offloads.
func MakeTap(t Tap) error {
	if err := checkName(t.Name); err != nil {
		return err
	}
	bridge, err := netlink.LinkByName(t.Bridge)
	if err != nil {
		return fmt.Errorf("bridge %s: %w", t.Bridge, err)
	}
	if err := Delete(t.Name); err != nil {
		return err
	}
	if err := persistTap(t); err != nil {
		return fmt.Errorf("make tap %s: %w", t.Name, err)
	}
	if err := plugTap(t, bridge); err != nil {
		return errors.Join(fmt.Errorf("tap %s: %w", t.Name, err), Delete(t.Name))
	}
	return nil
}

func persistTap(t Tap) error {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	ifr, err := unix.NewIfreq(t.Name)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_TUN_EXCL)
	fd := int(f.Fd())
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return os.NewSyscallError("TUNSETIFF", err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOWNER, t.Owner); err != nil {
		return os.NewSyscallError("TUNSETOWNER", err)
	}
	return os.NewSyscallError("TUNSETPERSIST", unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1))
}

func plugTap(t Tap, bridge netlink.Link) error {
	l, err := netlink.LinkByName(t.Name)
	if err != nil {
		return err
	}
	mtu := t.MTU
	if mtu == 0 {
		mtu = bridge.Attrs().MTU
	}
	if err := netlink.LinkSetMTU(l, mtu); err != nil {
		return err
	}
	if err := netlink.LinkSetMaster(l, bridge); err != nil {
		return err
	}
	if err := finishPort(t.Name, t.Isolated); err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}
