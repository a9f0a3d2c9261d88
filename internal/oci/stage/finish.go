package stage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/wire"
)

// process is the workload to become.
type process struct {
	wire.Process
	path   string // of the program, found by lookPath
	inCwd  bool   // the working directory has been entered
	groups []uint32
	env    []string
}

// finish gives up everything the workload must not have, and becomes it.
//
// The order follows from what each step needs: limits and labels while we are
// root; no_new_privs before the filter where both are wanted, because the filter
// then needs no privilege and can go last, so that it restricts nothing but execve;
// without no_new_privs the filter needs CAP_SYS_ADMIN and must go before the
// capabilities do.
func (s *stage) finish() error {
	p := &s.proc
	image, err := newImage(p.path, p.Args, p.env)
	if err != nil {
		return err
	}
	if image, err = s.reaperImage(image); err != nil {
		return err
	}
	early := !p.NoNewPrivs
	for _, step := range []func() error{
		p.setRlimits,
		p.setScheduling,
		p.setPlacement,
		p.setPersonality,
		s.applyLSM,
		p.ownStreams,
		p.noNewPrivileges,
		func() error { return s.filter(early) },
		p.becomeUser,
		p.enterCwd,
		func() error { return s.filter(!early) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return p.execError(image.exec())
}

// execError explains a failed execve with the exit status of a shell.
func (p *process) execError(err error) error {
	code := 126
	text := err.Error()
	switch {
	case errors.Is(err, unix.ENOENT):
		code, text = 127, "no such file or directory, or its interpreter is missing"
	case errors.Is(err, unix.ENOEXEC):
		text = "not a program for this machine, and no #! line"
	}
	return &wire.Failure{Code: code, Text: fmt.Sprintf("process.args[0]: %s: %s", p.path, text)}
}

// lookPath finds the program now, while create can still report its absence.
//
// dockerd and podman tell exit statuses 127 and 126 by words of runc's messages, so
// these contain "executable file not found in $PATH", "no such file or directory"
// and "permission denied".
func (s *stage) lookPath() error {
	p := &s.proc
	if len(p.Args) == 0 {
		return nil // awaitStart refuses to start it
	}
	if err := unix.Chdir(p.Cwd); err == nil {
		p.inCwd = true
		if err := p.checkCwd(); err != nil {
			return err
		}
	} else if !errors.Is(err, unix.EACCES) { // enterCwd tries again as the user
		return fmt.Errorf("process.cwd: %s: %w", p.Cwd, err)
	}
	name := p.Args[0]
	if strings.Contains(name, "/") {
		p.path = name
		return p.checkProgram(name, checkExecutable(name))
	}
	denied := error(nil)
	for _, dir := range filepath.SplitList(pathVariable(p.env)) {
		if dir == "" {
			dir = "."
		}
		path := dir + "/" + name
		err := checkExecutable(path)
		if err == nil {
			p.path = path
			return nil
		}
		if errors.Is(err, unix.EACCES) && denied == nil {
			denied, p.path = err, path
		}
	}
	if denied != nil {
		return p.checkProgram(p.path, denied)
	}
	return &wire.Failure{Code: 127, Text: fmt.Sprintf("process.args[0]: %q: executable file not found in $PATH of the container", name)}
}

func (p *process) checkProgram(path string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return &wire.Failure{Code: 127, Text: fmt.Sprintf("process.args[0]: %q: no such file or directory in the container", path)}
	}
	return &wire.Failure{Code: 126, Text: fmt.Sprintf("process.args[0]: %q: cannot be executed: %v", path, err)}
}

// checkExecutable returns nil for a file that execve would accept as far as its
// mode tells.
func checkExecutable(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return fmt.Errorf("is a directory (%w)", unix.EACCES)
	}
	if st.Mode&0o111 == 0 {
		return unix.EACCES
	}
	return nil
}

// defaultPath is what a shell would use where the environment has no PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func pathVariable(env []string) string {
	for _, e := range slices.Backward(env) {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			return v
		}
	}
	return defaultPath
}

// enterCwd changes to the working directory where root could not. Where root could,
// no system call is left to make: the filter may be in force and forbid getcwd.
func (p *process) enterCwd() error {
	if p.inCwd {
		return nil
	}
	if err := unix.Chdir(p.Cwd); err != nil {
		return fmt.Errorf("process.cwd: %s: %w", p.Cwd, err)
	}
	return p.checkCwd()
}

// checkCwd refuses a working directory outside the root filesystem: an image may
// name /proc/self/fd/N and hope for a leaked descriptor (CVE-2024-21626). The
// kernel's getcwd then answers "(unreachable)…", which Getwd turns into ENOENT.
func (p *process) checkCwd() error {
	if _, err := syscall.Getwd(); err != nil {
		return fmt.Errorf("process.cwd: %s leads out of the container's root filesystem", p.Cwd)
	}
	return nil
}

// ownStreams gives the standard streams to the user, so that a program can open
// /dev/stderr. Only pipes and terminals: a file of the caller's is not ours to give
// away, and a device such as /dev/null is everybody's, whose owner could lock out
// the whole host.
func (p *process) ownStreams() error {
	for fd := range 3 {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil || st.Uid == p.UID {
			continue
		}
		if st.Mode&unix.S_IFMT != unix.S_IFIFO && !isTerminal(fd) {
			continue
		}
		_ = unix.Fchown(fd, int(p.UID), -1) // EPERM, EINVAL: owned by an id not mapped here
	}
	return nil
}

func isTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}

func (p *process) noNewPrivileges() error {
	if p.Umask >= 0 {
		unix.Umask(p.Umask)
	} else {
		unix.Umask(0o022)
	}
	if !p.NoNewPrivs {
		return nil
	}
	return os.NewSyscallError("prctl(PR_SET_NO_NEW_PRIVS)", unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
}

// filter installs the seccomp filter, if there is one and now is its time. Whoever
// shall get its listener watches (see package listener).
func (s *stage) filter(now bool) error {
	p := &s.proc
	if !now || len(p.Seccomp) == 0 {
		return nil
	}
	if p.SeccompFlags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 {
		if err := s.conn.Send(wire.Report{Phase: wire.Listening}); err != nil {
			return err
		}
		if _, err := s.conn.Receive(&wire.Go{}); err != nil {
			return err
		}
	}
	if err := installFilter(p.Seccomp, p.SeccompFlags); err != nil {
		return fmt.Errorf("linux.seccomp: the kernel refuses the filter: %w", err)
	}
	return nil
}
