// Package criu has CRIU (Checkpoint/Restore In Userspace, criu.org) write the
// processes of a container to files, and make them anew of files.
//
// It starts "criu swrk" and talks to it over a socket: one request, notifications
// that are answered, one response.
//
//	berth-oci                      criu swrk
//	request, type DUMP or RESTORE ▶
//	                              ◀ response, type NOTIFY: "setup-namespaces", …
//	request, type NOTIFY          ▶
//	                              ◀ response, type DUMP or RESTORE
//
// The messages are protocol buffers (images/rpc.proto of CRIU), written here by hand:
// they are few, and a library for them would cost every start of berth-oci. The
// command line of CRIU would do without, but cannot hand over a terminal's master or
// let the runtime's hooks run inside of a restore.
package criu

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Type says what CRIU is to do (criu_req_type).
type Type uint64

// The requests that are used. PreDump copies memory and lets the processes run on.
const (
	Dump    Type = 1
	Restore Type = 2
	PreDump Type = 4

	notify Type = 6
)

// Modes of CRIU's own care for cgroups (criu_cg_mode), by their names on the command line.
func modes() map[string]uint64 {
	return map[string]uint64{"ignore": 0, "none": 1, "props": 2, "soft": 3, "full": 4, "strict": 5}
}

// IsMode reports whether a name is one of a mode for cgroups.
func IsMode(name string) bool { _, ok := modes()[name]; return ok }

// Options are those of a request (criu_opts). What is empty stays CRIU's default.
type Options struct {
	ImagesDir string // directory of the files
	WorkDir   string // directory of the log; "" for ImagesDir
	Parent    string // directory of an earlier pre-dump, relative to ImagesDir
	Pid       int    // Dump: of the first process
	Root      string // the root filesystem; Restore: must be a mount point

	LeaveRunning, TCPEstablished, TCPSkipInFlight, ExtUnixSk, ShellJob, FileLocks, LinkRemap, AutoDedup bool

	ManageCgroups   string              // mode, "" for soft
	FreezeCgroup    string              // directory of a cgroup that stops all processes
	CgroupRoots     map[string]string   // Restore: what the root that was dumped is now, by v1 controller, "" for v2
	External        []string            // what is not the container's own, as mnt[PATH]:PATH
	Inherit         map[string]int      // Restore: standard streams, by what they stand for, as pipe:[INODE]
	Pass            map[string]*os.File // Restore: namespaces, by their names in External at the dump
	EmptyNS         uint64              // CLONE_NEW* of namespaces whose contents are left out
	LSMProfile      string              // Restore: instead of the one that was dumped
	LSMMountContext string              // Restore: the same for mounts
	PageServer      string              // address of a server that takes the memory
	PagePort        int
}

// logFile is where CRIU says what it does, in WorkDir.
func (t Type) logFile() string {
	if t == Restore {
		return "restore.log"
	}
	return "dump.log"
}

// request encodes a criu_req. images and work are descriptors of ours: CRIU opens
// them by /proc/PID/fd of who sits at the socket.
func (o *Options) request(t Type, images, work int) []byte {
	var m message
	m.number(1, uint64(images))
	if t != Restore {
		m.number(2, uint64(o.Pid))
	}
	m.flag(3, o.LeaveRunning)
	m.flag(4, o.ExtUnixSk)
	m.flag(5, o.TCPEstablished)
	m.flag(6, true) // evasive_devices: a device of the host's tree is found by its number
	m.flag(7, o.ShellJob)
	m.flag(8, o.FileLocks)
	m.number(9, 3) // log_level: warnings tell more about a failure than its error
	m.text(10, t.logFile())
	if o.PageServer != "" {
		var ps message
		ps.text(1, o.PageServer)
		ps.number(2, uint64(o.PagePort))
		m.bytes(11, ps)
	}
	m.flag(12, true) // notify_scripts
	m.text(13, o.Root)
	m.text(14, o.Parent)
	m.flag(15, t == PreDump || o.Parent != "") // track_mem
	m.flag(16, o.AutoDedup)
	m.number(17, uint64(work))
	m.flag(18, o.LinkRemap)
	m.flag(24, true) // manage_cgroups
	for controller, path := range o.CgroupRoots {
		var root message
		root.text(1, controller)
		root.text(2, path)
		m.bytes(25, root)
	}
	m.flag(26, t == Restore) // rst_sibling: a child of ours, not of CRIU's
	for key, fd := range o.Inherit {
		var inherit message
		inherit.text(1, key)
		inherit.number(2, uint64(fd))
		m.bytes(27, inherit)
	}
	if o.ManageCgroups != "" {
		m.number(34, modes()[o.ManageCgroups])
	}
	for _, e := range o.External {
		m.text(37, e)
	}
	if o.EmptyNS != 0 {
		m.number(38, o.EmptyNS)
	}
	m.text(44, o.FreezeCgroup)
	m.flag(46, o.TCPSkipInFlight)
	m.flag(50, true) // orphan_pts_master: a terminal's other end is the engine's
	m.text(53, o.LSMProfile)
	m.text(63, o.LSMMountContext)

	var req message
	req.number(1, uint64(t))
	req.bytes(2, m)
	return req
}

// response is a criu_resp.
type response struct {
	kind    Type
	success bool
	errno   int
	message string
	pid     int    // of a restored or a notifying process
	script  string // name of a notification
}

func parseResponse(b []byte) (response, error) {
	var r response
	var inner error
	err := each(b, func(field int, n uint64, bytes []byte) {
		switch field {
		case 1:
			r.kind = Type(n)
		case 2:
			r.success = n != 0
		case 4: // criu_restore_resp
			inner = errors.Join(inner, each(bytes, func(field int, n uint64, _ []byte) {
				if field == 1 {
					r.pid = int(n)
				}
			}))
		case 5: // criu_notify
			inner = errors.Join(inner, each(bytes, func(field int, n uint64, text []byte) {
				switch field {
				case 1:
					r.script = string(text)
				case 2:
					r.pid = int(n)
				}
			}))
		case 7:
			r.errno = int(n)
		case 9:
			r.message = string(bytes)
		}
	})
	return r, errors.Join(err, inner)
}

// Event is a notification of CRIU's, to be answered.
type Event struct {
	Name string // "setup-namespaces", "orphan-pts-master", …
	Pid  int    // of the first process as we see it, where the event is about it
	File int    // descriptor that came with it, or -1; the handler's to close
}

// Hooks are called while CRIU works. Each may be nil.
type Hooks struct {
	Prepare func() error        // before CRIU starts, on the thread that it starts from and whose mount namespace it gets
	Started func(pid int) error // before CRIU, which has the pid, does anything
	Event   func(e Event) error // with every notification; an error makes CRIU give up
}

// Do has CRIU carry out a request, and returns the pid of a restored first process,
// a child of the caller's, which inherits the caller's standard streams. Paths in o
// that name directories of CRIU's files are opened before Prepare is called.
func Do(t Type, o *Options, h Hooks) (pid int, err error) {
	program, err := exec.LookPath("criu")
	if err != nil {
		return 0, errors.New("CRIU is not installed; install the package criu, or set PATH so that it is found")
	}
	images, err := os.Open(o.ImagesDir)
	if err != nil {
		return 0, err
	}
	defer images.Close()
	if o.WorkDir == "" {
		o.WorkDir = o.ImagesDir
	}
	_ = os.Remove(filepath.Join(o.WorkDir, t.logFile())) // of an earlier request
	work, err := os.Open(o.WorkDir)
	if err != nil {
		return 0, err
	}
	defer work.Close()
	if h.Prepare != nil {
		if err := h.Prepare(); err != nil {
			return 0, err
		}
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "criu")

	const first = 3                                         // of ExtraFiles in the child
	cmd := exec.Command(program, "swrk", fmt.Sprint(first)) //nolint:forbidigo // ends with its request
	cmd.ExtraFiles = []*os.File{theirs}
	for key, f := range o.Pass {
		o.Inherit[key] = first + len(cmd.ExtraFiles)
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if t == Restore {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		unix.Close(pair[0])
		return 0, err
	}
	if h.Started != nil {
		err = h.Started(cmd.Process.Pid)
	}
	if err == nil {
		pid, err = converse(pair[0], o.request(t, int(images.Fd()), int(work.Fd())), t, h.Event)
	}
	unix.Close(pair[0]) // after a pre-dump it would wait for the next request
	if err != nil {
		_ = cmd.Process.Kill()
	}
	_ = cmd.Wait()
	if err != nil {
		return 0, o.explain(t, err, work, said.String())
	}
	return pid, nil
}

// maxResponse is what CRIU's messages fit into with room to spare, in bytes.
const maxResponse = 64 << 10

// converse sends the request, and answers notifications until the response.
func converse(conn int, request []byte, t Type, handle func(Event) error) (pid int, err error) {
	if _, err := unix.Write(conn, request); err != nil {
		return 0, fmt.Errorf("CRIU: %w", err)
	}
	b := make([]byte, maxResponse)
	oob := make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := unix.Recvmsg(conn, b, oob, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("CRIU: %w", err)
		}
		if n == 0 {
			return 0, errors.New("CRIU ended without an answer")
		}
		file := received(oob[:oobn])
		r, err := parseResponse(b[:n])
		switch {
		case err != nil:
			return 0, err
		case r.kind == notify:
			if handle != nil {
				err = handle(Event{r.script, r.pid, file})
			}
			var answer message
			answer.number(1, uint64(notify))
			answer.number(3, map[bool]uint64{true: 1}[err == nil])
			if _, werr := unix.Write(conn, answer); err == nil {
				err = werr
			}
			if err != nil {
				return 0, err
			}
		case r.kind != t || !r.success:
			return 0, r.failure()
		default:
			return r.pid, nil
		}
	}
}

// received returns the descriptor that came with a message, or -1.
func received(oob []byte) int {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) == 0 {
		return -1
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) == 0 {
		return -1
	}
	return fds[0]
}

// failure is the error of a request that did not succeed.
func (r *response) failure() error {
	switch {
	case r.message != "":
		return fmt.Errorf("CRIU: %s", r.message)
	case r.errno != 0:
		return fmt.Errorf("CRIU: %w", unix.Errno(r.errno))
	}
	return errors.New("CRIU refuses")
}

// explain adds the first error that CRIU said or wrote to its log, which names the
// cause; what follows there are consequences.
func (o *Options) explain(t Type, err error, work *os.File, said string) error {
	path := filepath.Join(o.WorkDir, t.logFile())
	log, rerr := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d/%s", work.Fd(), t.logFile()))
	for line := range strings.Lines(said + string(log)) {
		if _, text, ok := strings.Cut(line, "Error ("); ok {
			if _, cause, ok := strings.Cut(text, "): "); ok {
				err = fmt.Errorf("%w: %s", err, strings.TrimSpace(cause))
				break
			}
		}
	}
	if rerr != nil {
		return fmt.Errorf("%w; criu check tells whether it works on this host", err)
	}
	return fmt.Errorf("%w; %s tells more", err, path)
}
