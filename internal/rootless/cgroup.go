package rootless

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	cgroupRoot = "/sys/fs/cgroup"
	// cgroupLeaf is the cgroup of the daemon and of all that belongs to it, beside those
	// of the instances: of v2 no process may be in a cgroup that is divided (cgroup-v2.rst,
	// No Internal Process Constraint).
	cgroupLeaf = "berthd"
	// cgroupFile says in which cgroup hold and the instances are.
	cgroupFile = "cgroup"
)

// settle finds a cgroup that the user may divide, and puts this process, and with it
// all that it is to start, where that is possible. It returns the path, counted from
// the root of the hierarchies, or "" where there is none.
func (l *Launcher) settle(ctx context.Context, dir string) (string, error) {
	record := filepath.Join(dir, cgroupFile)
	if l.runs(dir) {
		return l.rejoin(ctx, record)
	}
	found, err := l.find(ctx)
	if err != nil && l.Cgroup != "" {
		return "", fmt.Errorf("--cgroup %s: %w", l.Cgroup, err)
	}
	if err != nil {
		l.without(err.Error())
		found = ""
	}
	return found, os.WriteFile(record, []byte(found), 0o600)
}

// rejoin goes where the last daemon was: its keeper, which starts the containers, is
// there, and may reach no other cgroup.
func (l *Launcher) rejoin(ctx context.Context, record string) (string, error) {
	last, err := os.ReadFile(record)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	found := string(last)
	if l.Cgroup != "" && path.Clean(l.Cgroup) != found {
		return "", fmt.Errorf("--cgroup %s: instances still run that are not in it but in %q; leave it out until they have ended", l.Cgroup, found)
	}
	if found == "" {
		l.without("instances still run that were started without cgroups; berthd looks for one again once they have ended")
		return "", nil
	}
	if err := moveTo(ctx, found); err != nil {
		l.without(fmt.Sprintf("the instances that still run are in the cgroup %s, and berthd cannot go there: %v", found, err))
		return "", nil
	}
	return found, nil
}

// without says why there are no cgroups.
func (l *Launcher) without(reason string) { l.Say("no limits, stats and pause: " + reason) }

// runs reports whether anything runs of an earlier daemon.
func (l *Launcher) runs(dir string) bool {
	return answers("unixpacket", filepath.Join(dir, holdSocket)) || answers("unix", l.keeperSocket())
}

// find returns the cgroup that was asked for, or the own one, or one that systemd makes.
func (l *Launcher) find(ctx context.Context) (string, error) {
	own, err := ownCgroups()
	if err != nil {
		return "", err
	}
	if !unified() {
		return l.findHierarchies(own)
	}
	choice := path.Clean(l.Cgroup)
	switch current := own[""]; {
	case l.Cgroup != "":
	case path.Base(current) == cgroupLeaf && divisible(path.Dir(current)):
		choice = path.Dir(current) // another daemon's too, or a service's by DelegateSubgroup=
	case path.Ext(current) != ".service" && divisible(current) && isAlone(current):
		// Not a service's: systemd starts its next run in the service's own cgroup, where
		// there is no place for a process while instances of the last one go on below.
		choice = current
	default:
		if choice, err = newScope(ctx); err != nil {
			return "", err
		}
	}
	return choice, moveTo(ctx, choice)
}

// findHierarchies looks for the cgroup of v1 that is the user's in most hierarchies.
// Nothing needs to be in it: a process goes where somebody with the right to it writes
// its number.
func (l *Launcher) findHierarchies(own map[string]string) (string, error) {
	candidates := []string{path.Clean(l.Cgroup)}
	if l.Cgroup == "" {
		candidates = nil
		for _, p := range own {
			candidates = append(candidates, p)
		}
		slices.Sort(candidates)
	}
	var found string
	most := 0
	hierarchies, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return "", err
	}
	for _, p := range slices.Compact(candidates) {
		n := 0
		for _, h := range hierarchies {
			// systemd gives its own two to users, but they control nothing.
			if name := h.Name(); p != "/" && name != "systemd" && name != "unified" && writable(filepath.Join(cgroupRoot, name, p)) {
				n++
			}
		}
		if n > most {
			found, most = p, n
		}
	}
	if most == 0 {
		return "", errors.New("no cgroup is the user's in any hierarchy; root gives him one as docs/rootless.md says, or boots the host with cgroup v2")
	}
	return found, nil
}

// moveTo moves this process to the leaf of a cgroup of v2 and hands the controllers on
// to what will be beside it.
func moveTo(ctx context.Context, cgroup string) error {
	if !unified() {
		return nil
	}
	dir := filepath.Join(cgroupRoot, cgroup)
	leaf := filepath.Join(dir, cgroupLeaf)
	if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0)
	if err != nil {
		// From a cgroup of another owner, as that of a login session is, systemd alone
		// may move us.
		if refused := attach(ctx, path.Base(cgroup)); refused != nil {
			err = fmt.Errorf("%w, and systemd: %w", err, refused)
		} else {
			err = nil
		}
	}
	if err == nil {
		err = handOn(dir)
	}
	if err != nil {
		os.Remove(leaf) // refused where a process is in it
	}
	return err
}

// handOn turns on the controllers of a cgroup for those below it.
func handOn(dir string) error {
	controllers, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(controllers)) {
		// One may not be possible, as cpu is not beside real-time processes: it is not
		// among those that the daemon finds.
		err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+name), 0)
		if errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("processes are in %s itself, so that it cannot be divided; name another one", dir)
		}
	}
	return nil
}

// moveOut undoes moveTo, where nobody else is in the leaf any more. Nothing depends on it:
// the next daemon finds the cgroup as it is.
func moveOut(ctx context.Context, cgroup string) {
	if cgroup == "" || !unified() {
		return
	}
	dir := filepath.Join(cgroupRoot, cgroup)
	// Those that were told to end may take a moment.
	if !soon(ctx, time.Second, func() bool { return isAlone(path.Join(cgroup, cgroupLeaf)) }) {
		return
	}
	control := filepath.Join(dir, "cgroup.subtree_control")
	on, err := os.ReadFile(control)
	if err != nil {
		return
	}
	for name := range strings.FieldsSeq(string(on)) {
		if os.WriteFile(control, []byte("-"+name), 0) != nil {
			return // another daemon's instances have it
		}
	}
	if os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0) == nil {
		os.Remove(filepath.Join(dir, cgroupLeaf))
	}
}

// soon polls until ok holds, or for so long.
func soon(ctx context.Context, patience time.Duration, ok func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// unified reports whether the host has cgroup v2 alone.
func unified() bool {
	var st unix.Statfs_t
	return unix.Statfs(cgroupRoot, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// ownCgroups returns the paths of this process's cgroups by controllers, "" for v2.
func ownCgroups() (map[string]string, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	own := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if part := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3); len(part) == 3 {
			own[part[1]] = part[2]
		}
	}
	return own, nil
}

// divisible reports whether the user may make cgroups of v2 in this one, turn on
// controllers for them, and move processes between them.
func divisible(cgroup string) bool {
	for _, name := range []string{"", "cgroup.procs", "cgroup.subtree_control"} {
		if !writable(filepath.Join(cgroupRoot, cgroup, name)) {
			return false
		}
	}
	return true
}

// isAlone reports whether this is the only process of a cgroup of v2.
func isAlone(cgroup string) bool {
	pids, err := os.ReadFile(filepath.Join(cgroupRoot, cgroup, "cgroup.procs"))
	return err == nil && strings.TrimSpace(string(pids)) == strconv.Itoa(os.Getpid())
}

func writable(file string) bool { return unix.Access(file, unix.W_OK) == nil }
