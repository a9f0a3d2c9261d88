package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// delegable lists the files of a cgroup that a less privileged user may write to
// divide it. What limits the cgroup itself is not among them.
const delegable = "/sys/kernel/cgroup/delegate"

// Delegate gives the cgroup of v2 to a user, who may then make cgroups below it and
// move processes among them (config-linux.md, Cgroup ownership; the kernel's
// admin-guide/cgroup-v2.rst, Delegation). On v1, which knows no safe delegation, it
// does nothing.
func (g *Group) Delegate(uid int) error {
	if !g.v2 {
		return nil
	}
	files := "cgroup.procs\ncgroup.threads\ncgroup.subtree_control\n" // before Linux 4.15
	if list, err := os.ReadFile(delegable); err == nil {
		files = string(list)
	}
	dir := g.Paths()[""]
	for _, name := range append(strings.Fields(files), ".") {
		err := os.Chown(filepath.Join(dir, name), uid, -1)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // of a controller that is not on here
			return fmt.Errorf("delegating the cgroup: %w", err)
		}
	}
	return nil
}

// OpenBirthOf opens the directory that a process is to be born into to be where
// process pid of the group is. The container may have divided its cgroup: then the
// kernel lets no process into the group's own (cgroup-v2.rst, No Internal Process
// Constraint).
func (g *Group) OpenBirthOf(pid int) (int, error) {
	if !g.v2 {
		return g.OpenBirth()
	}
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return -1, err
	}
	top := g.Paths()[""]
	for line := range strings.Lines(string(text)) {
		path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::")
		if !ok {
			continue
		}
		dir := filepath.Join("/sys/fs/cgroup", path)
		if dir != top && !strings.HasPrefix(dir, top+"/") {
			break // the pid is another process's by now
		}
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, &os.PathError{Op: "cgroup", Path: dir, Err: err}
		}
		return fd, nil
	}
	return g.OpenBirth()
}
