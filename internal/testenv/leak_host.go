package testenv

import (
	"bytes"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// marker is the environment variable by which a process is known to come from
// a test process, after both its parents have died. Its value is the pid of
// the test process.
const marker = "BERTH_TESTENV"

// mark makes every process that this one starts from now on carry the marker.
func mark() { os.Setenv(marker, strconv.Itoa(os.Getpid())) }

func (s scope) files(r residue) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		switch {
		case err != nil: // the directory's own descriptor, closed by now
		case target == "anon_inode:[eventpoll]", target == "anon_inode:[eventfd]": // the Go runtime's poller
		default:
			what := "file descriptor " + e.Name() + " → " + target
			r[what] = what
		}
	}
}

// process is what /proc says of one process.
type process struct {
	pid, ppid int
	started   string // in clock ticks after boot: with the pid, unique
	state     string
	command   string
}

func (s scope) processes(r residue) {
	all := map[int]process{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if p, ok := readProcess(pid); ok {
				all[pid] = p
			}
		}
	}
	for pid, p := range all {
		if p.state == "Z" && p.ppid != os.Getpid() {
			continue // it has ended; that its new parent is slow to reap it is not the test's doing
		}
		ours := s.owns(p.command) || !s.shared && (descends(all, pid, os.Getpid()) || marked(pid))
		if pid != os.Getpid() && ours {
			r[fmt.Sprintf("process %d %s", pid, p.started)] =
				fmt.Sprintf("process %d (state %s, parent %d): %s", pid, p.state, p.ppid, p.command)
		}
	}
}

// readProcess reads /proc/PID/stat and cmdline (proc_pid_stat(5)). The name in
// parentheses may itself hold blanks and parentheses, so fields are counted
// from the last one.
func readProcess(pid int) (process, bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, false
	}
	end := bytes.LastIndexByte(stat, ')')
	fields := strings.Fields(string(stat[end+1:]))
	if end < 0 || len(fields) < 20 {
		return process{}, false
	}
	ppid, err := strconv.Atoi(fields[1])
	if err != nil {
		return process{}, false
	}
	p := process{pid: pid, ppid: ppid, state: fields[0], started: fields[19]}
	if cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && len(cmdline) > 0 {
		p.command = strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " "))
	} else if start := bytes.IndexByte(stat, '('); start >= 0 {
		p.command = string(stat[start : end+1])
	}
	return p, true
}

// descends reports whether pid has the ancestor.
func descends(all map[int]process, pid, ancestor int) bool {
	for range all { // a chain is never longer; pids may be reused while we read
		p, ok := all[pid]
		if !ok || pid == 1 {
			return false
		}
		if p.ppid == ancestor {
			return true
		}
		pid = p.ppid
	}
	return false
}

// marked reports whether a process inherited the marker of this one.
func marked(pid int) bool {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	want := fmt.Appendf(nil, "%s=%d\x00", marker, os.Getpid())
	return err == nil && bytes.Contains(env, want)
}

func (s scope) mounts(r residue) {
	lines("/proc/self/mountinfo", func(line string) {
		// proc_pid_mountinfo(5): id parent major:minor root target options…
		f := strings.Fields(line)
		if len(f) > 4 && s.owns(f[4]) {
			r["mount "+f[0]] = "mount " + f[4] + " (" + line + ")"
		}
	})
}

func (s scope) loops(r residue) {
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, f := range files {
		if backing, err := os.ReadFile(f); err == nil && s.owns(string(backing)) {
			what := "loop device " + strings.Split(f, "/")[3] + " of " + strings.TrimSpace(string(backing))
			r[what] = what
		}
	}
}

// named finds what carries the test's token in its name.
func (s scope) named(r residue) {
	add := func(kind, name string) {
		if strings.Contains(filepath.Base(name), s.token) {
			r[kind+name] = kind + name
		}
	}
	if links, err := net.Interfaces(); err == nil {
		for _, l := range links {
			add("network interface ", l.Name)
		}
	}
	if spaces, err := os.ReadDir("/run/netns"); err == nil {
		for _, n := range spaces {
			add("network namespace ", n.Name())
		}
	}
	// Cgroups come and go while we walk: a directory that has gone is skipped.
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			add("cgroup ", path)
		}
		return nil
	})
}
