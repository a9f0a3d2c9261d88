package stage

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// lsmFile is an open attr file of /proc and the label to write to it just before
// execve.
type lsmFile struct {
	fd    int
	field string
	label string
}

// prepareLSM opens the file that sets the label of the next execve, through the
// host's procfs: the container's own could be masked or forged, and the write
// silently go elsewhere (CVE-2019-16884, CVE-2025-52881).
func (i *initStage) prepareLSM() error { return i.openLSM(i.hostProc) }

func (s *stage) openLSM(proc int) error {
	label, path, field := "", "", ""
	switch {
	case s.proc.AppArmor != "":
		label, path, field = "exec "+s.proc.AppArmor, "attr/apparmor/exec", "process.apparmorProfile"
	case s.proc.SELinux != "":
		label, path, field = s.proc.SELinux, "attr/exec", "process.selinuxLabel"
	default:
		return nil
	}
	// "self" is a symbolic link of the procfs itself; what follows it must be neither
	// link nor mount.
	self, err := unix.Openat(proc, "self", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", field, err)
	}
	defer unix.Close(self)
	fd, err := unix.Openat2(self, path, &unix.OpenHow{
		Flags:   unix.O_WRONLY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
	if errors.Is(err, unix.ENOENT) && s.proc.AppArmor != "" {
		return fmt.Errorf("%s: AppArmor is not enabled in this kernel", field)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", field, err)
	}
	s.lsm = lsmFile{fd, field, label}
	return nil
}

// applyLSM sets the label of the next execve.
func (s *stage) applyLSM() error {
	if s.lsm.label == "" {
		return nil
	}
	defer unix.Close(s.lsm.fd)
	if _, err := unix.Write(s.lsm.fd, []byte(s.lsm.label)); err != nil {
		return fmt.Errorf("%s: %q: %w", s.lsm.field, strings.TrimPrefix(s.lsm.label, "exec "), err)
	}
	return nil
}
