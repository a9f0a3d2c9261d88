package qemu

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Server is a virtiofsd that serves one tree of the host to one guest.
type Server struct {
	Virtiofsd string `json:"virtiofsd"` // the program
	Socket    string `json:"socket"`    // it listens here
	Source    string `json:"source"`    // a directory, or a file that becomes the only one in the share
	ReadOnly  bool   `json:"read_only,omitempty"`
}

// Encode returns the server as LaunchServer's caller reads it.
func (s *Server) Encode() ([]byte, error) { return json.Marshal(s) }

// DecodeServer reads what Encode wrote.
func DecodeServer(data []byte) (*Server, error) {
	var s Server
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("the share's plan: %w", err)
	}
	return &s, nil
}

// LaunchServer makes this process virtiofsd. It returns only an error.
//
// The guest must not be trusted with what it mounts: read-only is enforced
// here, by a mount in a namespace of the server's own, because the guest's own
// mount options bind only an honest guest. virtiofsd then goes into its own
// mount, pid and network namespaces with the share as its root, and behind its
// seccomp filter (Kata GHSA-2gv2-cffp-j227 had both switched off).
func LaunchServer(s *Server) error {
	const fd = firstFD
	if err := listen(Socket{FD: fd, Path: s.Socket}); err != nil {
		return err
	}
	if err := leaveMounts(0); err != nil {
		return err
	}
	root, err := s.stage()
	if err != nil {
		return fmt.Errorf("share %s: %w", s.Source, err)
	}
	args := []string{
		s.Virtiofsd, "-f", "--fd=" + strconv.Itoa(fd), "--rlimit-nofile=0",
		"-o", "source=" + root, "-o", "cache=auto", "-o", "sandbox=namespace", "-o", "xattr", "-o", "log_level=err",
	}
	err = syscall.Exec(args[0], args, []string{"PATH=/usr/bin:/bin", "LC_ALL=C"})
	return &os.PathError{Op: "execute", Path: s.Virtiofsd, Err: err}
}

// stage mounts what is served below a tmpfs that only this process sees, over
// the socket's directory, and returns its place.
func (s *Server) stage() (string, error) {
	// Opened before the tmpfs hides anything.
	tree, err := unix.OpenTree(unix.AT_FDCWD, s.Source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return "", os.NewSyscallError("open_tree", err)
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if s.ReadOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return "", os.NewSyscallError("mount_setattr", err)
	}
	var info unix.Stat_t
	if err := unix.Fstat(tree, &info); err != nil {
		return "", os.NewSyscallError("fstat", err)
	}
	dir := filepath.Dir(s.Socket)
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700,size=64k"); err != nil {
		return "", os.NewSyscallError("mount tmpfs", err)
	}
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		return "", err
	}
	target := root
	if info.Mode&unix.S_IFMT != unix.S_IFDIR {
		target = filepath.Join(root, ShareFile)
		if err := os.WriteFile(target, nil, 0o600); err != nil {
			return "", err
		}
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return "", os.NewSyscallError("move_mount", err)
	}
	if target == root {
		return root, nil
	}
	// A guest may replace neither the file nor what is beside it.
	err = unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	return root, errors.Join(os.NewSyscallError("remount", err))
}

// ShareFile is the name of the only file in the share of a single file.
const ShareFile = "file"
