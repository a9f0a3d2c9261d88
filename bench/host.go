package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// machine is where the figures come from.
type machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory int64  `json:"memory_mib"`
	Kernel string `json:"kernel"`
}

func (m machine) String() string {
	return fmt.Sprintf("%s, %d cores, %d GiB, Linux %s", m.CPU, m.Cores, (m.Memory+512)/1024, m.Kernel)
}

func thisMachine() machine {
	m := machine{CPU: "unknown processor", Cores: runtime.NumCPU()}
	if v := field("/proc/cpuinfo", "model name"); v != "" {
		m.CPU = v
	}
	if kib, err := strconv.ParseInt(strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB"), 10, 64); err == nil {
		m.Memory = kib >> 10
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(release))
	}
	return m
}

// field returns the value of the first "name: value" line of a file of /proc.
func field(file, name string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for scan := bufio.NewScanner(bytes.NewReader(text)); scan.Scan(); {
		key, value, ok := strings.Cut(scan.Text(), ":")
		if ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// family returns the processes whose arguments name a directory, and all that
// descend from them, without those that run a given command: our workloads.
func family(dir string, without func(argv []string) bool) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	parents, argvs := map[int]int{}, map[int][]string{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		text, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue
		}
		argvs[pid] = strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
		parents[pid], _ = strconv.Atoi(field(filepath.Join("/proc", e.Name(), "status"), "PPid"))
	}
	named := func(arg string) bool { return strings.Contains(arg, dir) }
	var pids []int
	for pid, argv := range argvs {
		belongs := false
		for p := pid; p != 0 && !belongs; p = parents[p] {
			belongs = slices.ContainsFunc(argvs[p], named)
		}
		if belongs && !without(argv) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// quiet runs a command and forgets its output; its error tells the last of
// what it said.
func quiet(ctx context.Context, argv ...string) error {
	return run(exec.CommandContext(ctx, argv[0], argv[1:]...))
}

// output runs a command and returns what it writes.
func output(ctx context.Context, argv ...string) (string, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout = &out
	err := run(cmd)
	return strings.TrimSpace(out.String()), err
}

// run runs a command. What it says goes to a file, not to a pipe, which a
// container that it starts in the background would keep open.
func run(cmd *exec.Cmd) error {
	fd, err := unix.MemfdCreate("stderr", unix.MFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	errs := os.NewFile(uintptr(fd), "stderr")
	defer errs.Close()
	cmd.Stderr = errs
	if err := cmd.Run(); err != nil {
		info, _ := errs.Stat()
		said := make([]byte, 500)
		n, _ := errs.ReadAt(said, max(0, info.Size()-int64(len(said))))
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(said[:n]))
	}
	return nil
}

// installed says why a program cannot be measured, "" where it can.
func installed(programs ...string) string {
	for _, p := range programs {
		if _, err := exec.LookPath(p); errors.Is(err, exec.ErrNotFound) || err != nil {
			return "not installed"
		}
	}
	return ""
}
