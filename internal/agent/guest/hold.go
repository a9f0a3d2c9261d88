package guest

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// stillness holds every process but the agent still, by cgroup v2's freezer
// (cgroup-v2.rst, cgroup.freeze). A machine is saved so: what goes on from there can be
// given randomness and a name of its own before a single instruction of the user's runs.
//
//	/                      the agent's own cgroup is never frozen, and so none above it
//	├── user.slice         frozen
//	└── system.slice
//	    ├── ssh.service    frozen
//	    └── berth-agent.service      the agent
//	        └── workload             frozen: what was beside the agent moves there
type stillness struct {
	mu     sync.Mutex
	frozen []string // cgroups, in the order of their freezing
}

const cgroupRoot = "/sys/fs/cgroup"

// holdPatience bounds the wait for processes to come to rest, which those do not that
// wait for a device.
const holdPatience = 2 * time.Second

// errGivenUp is for nobody: whoever asked is not there any more.
var errGivenUp = errors.New("whoever wanted the guest held has given up")

// hold returns once nothing moves. On an error everything goes on, and where over says
// afterwards that whoever asked has given up: a host that has may let the guest go
// before this has begun, and is not going to once more.
func (s *stillness) hold(over func() bool) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.frozen) > 0 {
		return s.await()
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.thaw())
		}
	}()
	own, err := ownCgroup("/proc/self/cgroup")
	if err != nil {
		return err
	}
	if err := moveAside(filepath.Join(cgroupRoot, own)); err != nil {
		return err
	}
	groups, err := besides(cgroupRoot, own)
	if err != nil {
		return err
	}
	for _, group := range groups {
		if state, err := os.ReadFile(group + "/cgroup.freeze"); err != nil || string(state) != "0\n" {
			continue // it has ended, or was frozen by a user
		}
		err := os.WriteFile(group+"/cgroup.freeze", []byte("1"), 0)
		switch {
		case err == nil:
			s.frozen = append(s.frozen, group)
		case !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV):
			return err
		}
	}
	if err := s.await(); err != nil || !over() {
		return err
	}
	return errGivenUp
}

// await returns when all that was frozen is at rest.
func (s *stillness) await() error {
	deadline := time.Now().Add(holdPatience)
	for _, group := range s.frozen {
		for {
			events, err := os.ReadFile(group + "/cgroup.events")
			if err != nil || strings.Contains(string(events), "frozen 1\n") {
				break // what has ended is at rest too
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("the processes in %s do not come to rest", group)
			}
			<-time.After(500 * time.Microsecond)
		}
	}
	return nil
}

// letGo lets everything go on that hold has stopped.
func (s *stillness) letGo() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.thaw()
}

// thaw is called with mu held.
func (s *stillness) thaw() (err error) {
	for _, group := range slices.Backward(s.frozen) {
		thawed := os.WriteFile(group+"/cgroup.freeze", []byte("0"), 0)
		if !errors.Is(thawed, os.ErrNotExist) && !errors.Is(thawed, unix.ENODEV) {
			err = errors.Join(err, thawed)
		}
	}
	s.frozen = nil
	return err
}

// ownCgroup reads the agent's own cgroup (cgroups(7), /proc/PID/cgroup) of v2.
func ownCgroup(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if own, found := strings.CutPrefix(lines.Text(), "0::/"); found {
			return own, nil
		}
	}
	return "", errors.Join(errors.New("the guest has no cgroup v2, by which its processes could be held still"), lines.Err())
}

// besides returns the cgroups beside the way from a hierarchy's root to one of its
// cgroups, and those in that one.
func besides(root, own string) (groups []string, err error) {
	for at, rest := root, own; ; {
		next, deeper, _ := strings.Cut(rest, "/")
		entries, err := os.ReadDir(at)
		if err != nil {
			return nil, err
		}
		for _, entry := range entries {
			if entry.IsDir() && (next == "" || entry.Name() != next) {
				groups = append(groups, filepath.Join(at, entry.Name()))
			}
		}
		if next == "" {
			return groups, nil
		}
		at, rest = filepath.Join(at, next), deeper
	}
}

// moveAside moves what shares the agent's cgroup to one in it, where it stays: a cgroup
// is frozen as a whole.
func moveAside(own string) error {
	var there string
	for range 100 { // what is moved may have forked
		others, err := besideAgent(own)
		if err != nil || len(others) == 0 {
			return err
		}
		if there == "" {
			there = filepath.Join(own, "workload")
			if err := os.Mkdir(there, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
				return err
			}
		}
		for _, pid := range others {
			err := os.WriteFile(there+"/cgroup.procs", []byte(strconv.Itoa(pid)), 0)
			if err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
	}
	return errors.New("the guest's processes multiply faster than they can be held still")
}

// besideAgent returns the processes of a cgroup that are neither the agent nor threads of the
// kernel.
func besideAgent(group string) (list []int, err error) {
	data, err := os.ReadFile(group + "/cgroup.procs")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		pid, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil || pid == os.Getpid() || pid == kthreadd {
			continue
		}
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil {
			continue // it has ended
		}
		if p, ok := parseStat(string(stat)); ok && p.PPID != kthreadd && p.State != "Z" {
			list = append(list, pid)
		}
	}
	return list, nil
}
