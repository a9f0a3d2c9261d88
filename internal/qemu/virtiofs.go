package qemu

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// Server is a virtiofsd that serves one tree of the host to one guest.
type Server struct {
	Virtiofsd string `json:"virtiofsd"` // the program
	Socket    string `json:"socket"`    // it listens here
	Source    string `json:"source"`    // a directory, or a file that becomes the only one in the share
	ReadOnly  bool   `json:"read_only,omitempty"`

	Program []Shown `json:"program,omitempty"` // virtiofsd's own files: see Libraries
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

// serverCapabilities are what virtiofsd serves a tree with, as its owner, and what its
// own sandbox takes.
const serverCapabilities = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID |
	1<<unix.CAP_SETGID | 1<<unix.CAP_SETUID | 1<<unix.CAP_SETPCAP | 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_MKNOD | 1<<unix.CAP_SETFCAP

// shareDir is where the server finds what it serves.
const shareDir = "/share"

// LaunchServer makes this process virtiofsd. It returns only an error.
//
// The guest must not be trusted with what it mounts: read-only is enforced
// here, by a mount in a namespace of the server's own, because the guest's own
// mount options bind only an honest guest. virtiofsd finds its own files and the share
// in its root, and nothing else of the host. It goes then into its own mount, pid and
// network namespaces with the share as its root, and behind its
// seccomp filter (Kata GHSA-2gv2-cffp-j227 had both switched off). Landlock would
// forbid it the mounts that takes.
func LaunchServer(s *Server) error {
	runtime.LockOSThread()
	const fd = firstFD
	if err := listen(Socket{FD: fd, Path: s.Socket}); err != nil {
		return err
	}
	if err := unspare(); err != nil {
		return err
	}
	if err := s.confine(); err != nil {
		return fmt.Errorf("share %s: %w", s.Source, err)
	}
	return become([]string{
		s.Virtiofsd, "-f", "--fd=" + strconv.Itoa(fd), "--rlimit-nofile=0",
		"-o", "source=" + shareDir, "-o", "cache=auto", "-o", "sandbox=namespace", "-o", "xattr", "-o", "log_level=err",
	})
}

// confine leaves the host behind, but for the share.
func (s *Server) confine() error {
	root, err := newRoot()
	if err != nil {
		return err
	}
	for _, p := range s.Program {
		if err := show(root, p); err != nil {
			return err
		}
	}
	if err := s.showShare(root); err != nil {
		return err
	}
	if err := showProc(root); err != nil {
		return err
	}
	if err := enterRoot(root); err != nil {
		return err
	}
	if err := limit(&Plan{}); err != nil {
		return err
	}
	return renounce(serverCapabilities)
}

// showShare mounts what is served. A single file stands in a directory of the root,
// where a guest may replace neither the file nor what is beside it.
func (s *Server) showShare(root int) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, s.Source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return os.NewSyscallError("open_tree", err)
	}
	defer unix.Close(tree)
	var info unix.Stat_t
	if err := unix.Fstat(tree, &info); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	name := shareDir
	if info.Mode&unix.S_IFMT != unix.S_IFDIR {
		name += "/" + ShareFile
	}
	attributes := uint64(unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV)
	if s.ReadOnly {
		attributes |= unix.MOUNT_ATTR_RDONLY
	}
	return attach(root, tree, name, attributes)
}

// showProc mounts a /proc of the server's own pid namespace, whose descriptors it
// goes through and in whose place it mounts another.
func showProc(root int) error {
	fs, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("fsopen proc", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return os.NewSyscallError("fsconfig proc", err)
	}
	proc, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("fsmount proc", err)
	}
	defer unix.Close(proc)
	return attach(root, proc, "/proc", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
}

// ShareFile is the name of the only file in the share of a single file.
const ShareFile = "file"
