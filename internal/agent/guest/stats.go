package guest

import (
	"os"
	"strconv"
	"strings"

	"github.com/berthcloud/berth/internal/agent"
)

// tick is the unit of times in /proc, in nanoseconds: Linux shows them to
// users in hundredths of a second on every architecture Berth knows.
const tick = 1e9 / 100

// readStats measures the guest.
func readStats() (agent.Stats, error) {
	s := agent.Stats{PIDs: int64(len(pids()))}
	var text [4]string
	for i, file := range []string{"/proc/stat", "/proc/meminfo", "/proc/net/dev", "/proc/diskstats"} {
		data, err := os.ReadFile(file)
		if err != nil {
			return s, err
		}
		text[i] = string(data)
	}
	s.CPU = cpuTime(text[0])
	s.Memory, s.MemoryTotal = memoryUse(text[1])
	s.NetRx, s.NetTx = networkUse(text[2])
	s.DiskRead, s.DiskWrite = diskUse(text[3])
	return s, nil
}

// cpuTime adds user, nice, system, irq and softirq time of /proc/stat.
func cpuTime(stat string) int64 {
	line, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	var ticks int64
	for _, i := range []int{1, 2, 3, 6, 7} {
		ticks += number(fields, i)
	}
	return ticks * tick
}

// memoryUse returns what is in use without caches, and all there is.
func memoryUse(meminfo string) (used, total int64) {
	values := map[string]int64{}
	for line := range strings.Lines(meminfo) {
		if fields := strings.Fields(line); len(fields) > 1 {
			values[fields[0]] = number(fields, 1) << 10
		}
	}
	total = values["MemTotal:"]
	return total - values["MemAvailable:"], total
}

// networkUse adds the bytes of all interfaces but loopback.
func networkUse(dev string) (rx, tx int64) {
	for line := range strings.Lines(dev) {
		name, counters, found := strings.Cut(line, ":")
		if !found || strings.TrimSpace(name) == "lo" {
			continue
		}
		fields := strings.Fields(counters)
		rx += number(fields, 0)
		tx += number(fields, 8)
	}
	return rx, tx
}

// diskUse adds the bytes of whole virtio disks; diskstats counts 512-byte sectors.
func diskUse(diskstats string) (read, written int64) {
	for line := range strings.Lines(diskstats) {
		fields := strings.Fields(line)
		if len(fields) > 9 && strings.HasPrefix(fields[2], "vd") && strings.Trim(fields[2][2:], "abcdefghijklmnopqrstuvwxyz") == "" {
			read += number(fields, 5) * 512
			written += number(fields, 9) * 512
		}
	}
	return read, written
}

// number returns the i-th field as a number, 0 where there is none.
func number(fields []string, i int) int64 {
	if i >= len(fields) {
		return 0
	}
	n, _ := strconv.ParseInt(fields[i], 10, 64)
	return n
}

// pids lists the processes of the machine but for the kernel's own threads.
func pids() []int {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	var list []int
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == kthreadd {
			continue
		}
		if p, ok := readProcess(pid); ok && p.PPID != kthreadd {
			list = append(list, pid)
		}
	}
	return list
}

// kthreadd is the parent of all kernel threads.
const kthreadd = 2

// listProcesses lists the user's processes: neither the agent nor the kernel's.
func listProcesses() ([]agent.Proc, error) {
	list := []agent.Proc{}
	for _, pid := range pids() {
		if p, ok := readProcess(pid); ok && pid != 1 {
			p.Command = commandLine(pid, p.Command)
			list = append(list, p)
		}
	}
	return list, nil
}

// readProcess reads /proc/PID; false means that the process has ended.
func readProcess(pid int) (agent.Proc, bool) {
	dir := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return agent.Proc{}, false
	}
	p, ok := parseStat(string(stat))
	if !ok {
		return agent.Proc{}, false
	}
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return agent.Proc{}, false
	}
	for line := range strings.Lines(string(status)) {
		if value, found := strings.CutPrefix(line, "Uid:"); found {
			p.UID = int(number(strings.Fields(value), 1))
		}
	}
	return p, true
}

// parseStat reads proc_pid_stat(5). The command is in parentheses and may hold
// any character, so the last parenthesis counts.
func parseStat(stat string) (agent.Proc, bool) {
	open, end := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if open < 1 || end < open {
		return agent.Proc{}, false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(stat[:open]))
	fields := strings.Fields(stat[end+1:])
	if err != nil || len(fields) < 22 {
		return agent.Proc{}, false
	}
	return agent.Proc{PID: pid, PPID: int(number(fields, 1)), State: fields[0],
		Memory: number(fields, 21) * int64(os.Getpagesize()), Command: stat[open+1 : end]}, true
}

// commandLine returns the arguments of a process, at most 4 KiB of them.
func commandLine(pid int, name string) string {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil || len(data) == 0 {
		return "[" + name + "]"
	}
	data = data[:min(len(data), 4096)]
	return strings.TrimSpace(strings.ReplaceAll(string(data), "\x00", " "))
}

// oomKills returns how many processes the kernel has killed for want of memory.
func oomKills() int64 {
	data, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if value, found := strings.CutPrefix(line, "oom_kill "); found {
			return number(strings.Fields(value), 0)
		}
	}
	return 0
}
