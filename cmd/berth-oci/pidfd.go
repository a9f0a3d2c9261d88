package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// sendPidfd sends a descriptor of a process to the unix socket at path, for
// --pidfd-socket. An empty path asks for nothing.
func sendPidfd(path string, pid int) error {
	if path == "" {
		return nil
	}
	socket, err := dial(path)
	if err != nil {
		return fmt.Errorf("--pidfd-socket: %s: %w", path, err)
	}
	defer unix.Close(socket)
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("--pidfd-socket: %w", os.NewSyscallError("pidfd_open", err))
	}
	defer unix.Close(fd)
	if err := unix.Sendmsg(socket, []byte("pidfd"), unix.UnixRights(fd), nil, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("--pidfd-socket: %s: %w", path, err)
	}
	return nil
}
