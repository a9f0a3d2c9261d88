package container

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/berthcloud/berth/api"
)

// Stats measures the run's cgroups and interfaces.
func (h *handle) Stats(context.Context) (api.Stats, error) {
	if host := h.driver.cfg.Host; len(host.Controllers) == 0 {
		if err := host.Needs("stats", "memory"); err != nil {
			return api.Stats{}, h.unsupported("stats", err)
		}
	}
	s, err := h.driver.runtime.Stats(h.p.ID)
	if err != nil {
		return api.Stats{}, h.fail("stats", err)
	}
	out := api.Stats{
		ID: h.p.ID, Name: h.p.Spec.Name, Time: time.Now(),
		CPU:         api.Duration(s.CpuStats.CpuUsage.TotalUsage),
		Memory:      int64(s.MemoryStats.Usage.Usage - min(s.MemoryStats.Usage.Usage, pageCache(s.MemoryStats.Stats))),
		MemoryLimit: h.p.Spec.Limits.Memory,
		PIDs:        int64(s.PidsStats.Current),
	}
	if out.MemoryLimit == 0 {
		out.MemoryLimit = h.driver.cfg.Host.Memory
	}
	for _, e := range s.BlkioStats.IoServiceBytesRecursive {
		switch strings.ToLower(e.Op) {
		case "read":
			out.DiskRead += int64(e.Value)
		case "write":
			out.DiskWrite += int64(e.Value)
		}
	}
	for _, i := range h.p.Interfaces {
		// What the host's end sends the container receives.
		out.NetRx += counter(i.HostName, "tx_bytes")
		out.NetTx += counter(i.HostName, "rx_bytes")
	}
	return out, nil
}

// pageCache is what the kernel can drop at once: v2 and v1 name it differently.
func pageCache(stats map[string]uint64) uint64 {
	if n, ok := stats["total_inactive_file"]; ok {
		return n
	}
	return stats["inactive_file"]
}

func counter(device, name string) int64 {
	b, err := os.ReadFile(filepath.Join("/sys/class/net", device, "statistics", name))
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n
}

// Top lists the processes.
func (h *handle) Top(context.Context) (api.Top, error) {
	pids, err := h.driver.runtime.Pids(h.p.ID)
	if err != nil {
		return api.Top{}, h.fail("top", err)
	}
	inside := map[string]int{} // host pid → pid in the container
	var list []map[string]string
	for _, pid := range pids {
		st, err := readStatus(pid)
		if err != nil {
			continue // ended meanwhile
		}
		ns := strings.Fields(st["NSpid"])
		if len(ns) > 0 {
			inside[ns[0]], _ = strconv.Atoi(ns[len(ns)-1])
		}
		st["pid"] = strconv.Itoa(pid)
		list = append(list, st)
	}
	top := api.Top{Processes: []api.Process{}}
	for _, st := range list {
		top.Processes = append(top.Processes, h.processOf(st, inside))
	}
	return top, nil
}

// processOf translates /proc/PID/status into what the container would see.
func (h *handle) processOf(st map[string]string, inside map[string]int) api.Process {
	uid := strings.Fields(st["Uid"] + " 0")[0]
	if n, err := strconv.ParseUint(uid, 10, 32); err == nil && h.p.Users.Size > 0 {
		uid = fmt.Sprint(n - min(n, uint64(h.p.Users.First)))
	}
	kb, _ := strconv.ParseInt(strings.TrimSuffix(st["VmRSS"], " kB"), 10, 64)
	return api.Process{
		PID: inside[st["pid"]], PPID: inside[st["PPid"]], User: uid,
		State: firstWord(st["State"]), Memory: kb << 10, Command: command(st),
	}
}

func firstWord(s string) string {
	w, _, _ := strings.Cut(s, " ")
	return w
}

// readStatus reads /proc/PID/status.
func readStatus(pid int) (map[string]string, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return nil, err
	}
	st := map[string]string{}
	for line := range strings.SplitSeq(string(b), "\n") {
		if key, value, ok := strings.Cut(line, ":"); ok {
			st[key] = strings.TrimSpace(value)
		}
	}
	return st, nil
}

// maxCommand bounds a command line, which the container chooses, in bytes.
const maxCommand = 4096

// command is the command line, or the name in brackets where there is none.
func command(st map[string]string) string {
	b, err := os.ReadFile("/proc/" + st["pid"] + "/cmdline")
	if err != nil || len(b) == 0 {
		return "[" + api.OneLine(st["Name"]) + "]"
	}
	b = b[:min(len(b), maxCommand)]
	return api.OneLine(strings.ReplaceAll(strings.TrimRight(string(b), "\x00"), "\x00", " "))
}
