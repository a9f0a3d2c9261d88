// Package rootless makes an ordinary user root of a user namespace, in which a
// program of his may do what containers take: mount, make namespaces, hand out ids.
//
//	caller (uid 1000)            child
//	clone user, mount, … ──────▶ wait
//	newuidmap, newgidmap
//	go on ─────────────────────▶ become root there, execveat of this program again
//	wait, pass signals on        do the work
//
// The detour over another process is forced: a process with threads, as every Go
// program is one, cannot enter a user namespace (setns(2), unshare(2)).
package rootless

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/program"
	"github.com/berthcloud/berth/internal/oci/spawn"
)

// Command is a program to be run in other namespaces.
type Command struct {
	Program   string // path; "" for this program
	Args, Env []string
	Files     []int        // Files[i] becomes descriptor i
	New       uintptr      // CLONE_NEW* bits of the namespaces to create; without CLONE_NEWUSER, Join has one
	Join      []spawn.Join // namespaces to enter, in this order
	UIDs      []specs.LinuxIDMapping
	GIDs      []specs.LinuxIDMapping // both of a new user namespace
}

// Start starts the command as root of its user namespace. The caller reaps it.
func Start(c Command) (pid int, err error) {
	if c.Program == "" {
		c.Program = "/proc/self/exe"
	}
	exe, err := unix.Open(c.Program, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: c.Program, Err: err}
	}
	defer unix.Close(exe)
	conn := len(c.Files)
	child, err := spawn.Start(&spawn.Cmd{
		Files: append(slices.Clip(c.Files), -1, exe), Conn: conn, New: c.New, Join: c.Join, Cgroup: -1,
	})
	if err != nil {
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) {
			err = fmt.Errorf("%w; an ordinary user may make no user namespace here: see the sysctls user.max_user_namespaces, kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns", err)
		}
		return 0, err
	}
	if c.New&unix.CLONE_NEWUSER != 0 {
		err = writeMaps(child.Pid, c.UIDs, c.GIDs)
	}
	if err == nil {
		err = child.Exec(c.compile(conn))
	}
	if err != nil {
		child.Kill()
		return 0, err
	}
	child.Close()
	return child.Pid, nil
}

// compile makes what the child does: it becomes root and executes the program, which
// stands behind the conversation.
func (c *Command) compile(conn int) *program.Builder {
	b := program.New(program.Second)
	spawn.BecomeRoot(b)
	b.Call("close_range", unix.SYS_CLOSE_RANGE, program.N(conn), program.N(^uint32(0)), program.N(unix.CLOSE_RANGE_CLOEXEC))
	b.Call(c.Program, unix.SYS_EXECVEAT, program.N(conn+1), b.String("").Arg(), b.Strings(c.Args).Arg(), b.Strings(c.Env).Arg(), program.N(unix.AT_EMPTY_PATH))
	return b
}

// writeMaps gives the new user namespace of pid its ids. The own id alone anyone may
// map, if he gives up setgroups, by which a process could rid itself of a group that
// is denied something (CVE-2014-8989); everything else the setuid programs of
// shadow-utils do, which look into /etc/subuid and /etc/subgid.
func writeMaps(pid int, uids, gids []specs.LinuxIDMapping) error {
	proc := "/proc/" + strconv.Itoa(pid)
	if ownID(uids, os.Geteuid()) && ownID(gids, os.Getegid()) {
		for _, f := range [][2]string{
			{"/setgroups", "deny"},
			{"/uid_map", strings.Join(fields(uids), " ")},
			{"/gid_map", strings.Join(fields(gids), " ")},
		} {
			if err := os.WriteFile(proc+f[0], []byte(f[1]), 0); err != nil {
				return err
			}
		}
		return nil
	}
	if err := mapHelper("newuidmap", "/etc/subuid", pid, uids); err != nil {
		return err
	}
	return mapHelper("newgidmap", "/etc/subgid", pid, gids)
}

// ownID reports whether the list maps this one id and nothing else.
func ownID(list []specs.LinuxIDMapping, id int) bool {
	return len(list) == 1 && list[0].Size == 1 && int64(list[0].HostID) == int64(id)
}

// fields lists the numbers of a map in the order of /proc/PID/uid_map, which is that
// of newuidmap's arguments too.
func fields(list []specs.LinuxIDMapping) []string {
	var out []string
	for _, m := range list {
		for _, n := range []uint32{m.ContainerID, m.HostID, m.Size} {
			out = append(out, strconv.FormatUint(uint64(n), 10))
		}
	}
	return out
}

// ErrMaps says that the ids cannot be mapped.
var ErrMaps = errors.New("the ids cannot be mapped")

func mapHelper(program, file string, pid int, list []specs.LinuxIDMapping) error {
	out, err := exec.Command(program, append([]string{strconv.Itoa(pid)}, fields(list)...)...).CombinedOutput() //nolint:forbidigo // it ends by itself
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%w: more than the own id takes %s; install the package uidmap", ErrMaps, program)
	}
	if err != nil {
		return fmt.Errorf("%w: %w (%s); %s says which the user has", ErrMaps, err, strings.TrimSpace(string(out)), file)
	}
	return nil
}
