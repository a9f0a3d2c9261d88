package guest

import (
	"errors"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// workload is the cgroup of the user's processes. It exists once a limit has
// been set; until then they are in the root cgroup with the agent.
type workload struct {
	mu  sync.Mutex
	dir *os.File // nil until there is a limit
}

const workloadDir = "/sys/fs/cgroup/workload"

// limitPIDs bounds how many processes and threads the user has; below one is
// no bound. Processes that run already move into the cgroup.
func (w *workload) limitPIDs(limit int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dir == nil {
		if err := os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+pids"), 0); err != nil {
			return err
		}
		if err := os.Mkdir(workloadDir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		dir, err := os.Open(workloadDir)
		if err != nil {
			return err
		}
		w.dir = dir
		for _, pid := range pids() {
			if pid != 1 {
				// It may have ended meanwhile.
				_ = os.WriteFile(workloadDir+"/cgroup.procs", []byte(strconv.Itoa(pid)), 0)
			}
		}
	}
	text := "max"
	if limit > 0 {
		text = strconv.FormatInt(limit, 10)
	}
	return os.WriteFile(workloadDir+"/pids.max", []byte(text), 0)
}

// birthplace returns the cgroup that new processes are born into, or -1.
func (w *workload) birthplace() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dir == nil {
		return -1
	}
	return int(w.dir.Fd())
}

// apart returns a new cgroup for one command and what it starts.
func (w *workload) apart() (*os.File, error) {
	w.mu.Lock()
	parent := cgroupRoot
	if w.dir != nil {
		parent = workloadDir
	}
	w.mu.Unlock()
	dir, err := os.MkdirTemp(parent, "apart")
	if err != nil {
		return nil, err
	}
	return os.Open(dir)
}

// apartPatience bounds the wait for processes that were killed to be gone: one may wait
// for a device.
const apartPatience = 5 * time.Second

// endApart kills what is left in a command's own cgroup and removes that. What the
// command has moved elsewhere, as root can, stays.
func endApart(dir string) {
	_ = os.WriteFile(dir+"/cgroup.kill", []byte("1"), 0)
	for wait, deadline := time.Millisecond, time.Now().Add(apartPatience); ; wait *= 2 {
		if err := os.Remove(dir); !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return
		}
		<-time.After(wait)
	}
}
