package oci

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/netdev"
)

// moveDevices moves the host's interfaces of linux.netDevices into the network namespace
// of the waiting child. A creation that fails later brings them back.
func (k *creator) moveDevices() error {
	devices := k.b.Spec.Linux.NetDevices
	if len(devices) == 0 {
		return nil
	}
	path := "/proc/" + strconv.Itoa(k.child.Pid) + "/ns/net"
	ns, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	// Create closes it last: open, it keeps the interfaces even when the child has died.
	k.netns = ns
	var own, theirs unix.Stat_t
	if err := errors.Join(unix.Stat("/proc/self/ns/net", &own), unix.Fstat(ns, &theirs)); err != nil {
		return fmt.Errorf("linux.netDevices: %w", err)
	}
	if own.Ino == theirs.Ino && own.Dev == theirs.Dev {
		return errors.New("linux.netDevices: the container's network namespace is the runtime's own")
	}
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		moved, err := netdev.Move(-1, ns, name, devices[name].Name)
		if err != nil {
			return fmt.Errorf("linux.netDevices[%q]: %w", name, err)
		}
		k.undo.Add(func(context.Context) error {
			_, err := netdev.Move(ns, -1, moved, name)
			return err
		})
	}
	return nil
}
