package oci_test

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// cycles names how many cycles TestCycles makes: "make stress" makes ten thousand.
const cycles = "BERTH_TEST_CYCLES"

// atOnce is how many of them go on at a time.
const atOnce = 8

// TestCycles creates, starts, kills and deletes containers, several at a time, and
// looks for what they have left: in the state directory, on the machine (as every
// test does), and in the kernel, whose objects have no names to look for.
func TestCycles(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	count := 200
	if n, err := strconv.Atoi(os.Getenv(cycles)); err == nil {
		count = n
	}
	b := newBox(t, "exec sleep 1000")
	b.spec.Linux.CgroupsPath = "" // each has one of its own, named after it
	b.write()
	before, begin := kernelObjects(t), time.Now()
	work := make(chan int)
	var workers sync.WaitGroup
	for range atOnce {
		workers.Go(func() {
			for i := range work {
				if err := b.cycle(b.id + "-" + strconv.Itoa(i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := 0; i < count && !t.Failed(); i++ {
		work <- i
	}
	close(work)
	workers.Wait()
	took := time.Since(begin)
	b.nothing()
	// One object of each cycle would be a leak. What others do meanwhile, and what the
	// allocator keeps at hand, hides it from a few cycles, not from thousands.
	const noise = 500
	var grown []string
	eventually(t, "the kernel's objects go", func() bool {
		grown = grown[:0]
		for name, n := range kernelObjects(t) {
			if n-before[name] >= max(count/2, noise) {
				grown = append(grown, fmt.Sprintf("%s from %d to %d", name, before[name], n))
			}
		}
		return len(grown) == 0
	})
	t.Logf("%d cycles in %v; kernel objects before %v, after %v", count, took.Round(time.Millisecond), before, kernelObjects(t))
}

// cycle is one life.
func (b *box) cycle(id string) error {
	for _, args := range [][]string{
		{"create", "--bundle", b.bundle, id}, {"start", id}, {"kill", id, "KILL"}, {"delete", "--force", id},
	} {
		if err := b.detached(args...); err != nil {
			return err
		}
	}
	return nil
}

// detached runs berth-oci with output that a container may keep open.
func (b *box) detached(args ...string) error {
	said, err := os.CreateTemp(b.bundle, "said")
	if err != nil {
		return err
	}
	defer os.Remove(said.Name())
	defer said.Close()
	cmd := exec.Command(binary, append([]string{"--root", b.root}, args...)...)
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(said.Name())
		return fmt.Errorf("%v: %w: %s", args, err, text)
	}
	return nil
}

// kernelObjects counts what the kernel keeps of containers, by slabinfo(5): mounts,
// namespaces, memory cgroups that wait for their last page.
func kernelObjects(t *testing.T) map[string]int {
	raw, err := os.ReadFile("/proc/slabinfo")
	if err != nil {
		t.Skip(err)
	}
	objects := map[string]int{}
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		switch f[0] {
		case "mnt_cache", "net_namespace", "pid_namespace", "uts_namespace", "user_namespace", "mem_cgroup", "nsproxy", "task_struct":
			if objects[f[0]], err = strconv.Atoi(f[1]); err != nil {
				t.Fatalf("/proc/slabinfo: %s", line)
			}
		}
	}
	return objects
}
