package guest

import (
	"errors"
	"os"
	"strconv"
	"sync"
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
