package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// idle is how many containers share the cost that idleContainers divides: Berth's,
// as promised, and those of its peers, which take their time to start.
const (
	idle     = 200
	idlePeer = 20
)

// settle is how long processes get to calm down before their memory counts.
const settle = 2 * time.Second

// idleContainers measures what an idle container costs beyond its workload: of
// the engine's own processes, and of the kernel.
func (b *bench) idleContainers() measurement {
	const name = "memory of an idle container beyond its workload"
	return measurement{name, func(ctx context.Context) ([]row, error) {
		var processes, kernel []subject
		for _, engine := range b.engines() {
			own, kernels, n, err := b.overhead(ctx, engine)
			if err != nil && (engine == b.daemon || ctx.Err() != nil) {
				return nil, err
			}
			if why := engine.why; why != "" || err != nil {
				if err != nil {
					why = failed(engine.label, err)
				}
				processes = append(processes, subject{Name: engine.label, Missing: why})
				kernel = append(kernel, subject{Name: engine.label, Missing: why})
				continue
			}
			processes = append(processes, single(engine.label, own, n))
			kernel = append(kernel, single(engine.label, kernels, n))
		}
		return []row{
			{Name: name, Unit: "kB PSS", Verdicts: judge(processes, []target{atMost(150, "kB")}), Subjects: compare(processes)},
			{Name: "kernel memory of an idle container and its process", Unit: "kB", Subjects: compare(kernel)},
		}, nil
	}}
}

// overhead starts n idle containers and divides what the engine's own processes
// and the kernel have grown by.
func (b *bench) overhead(ctx context.Context, e *server) (own, kernel float64, n int, err error) {
	if e.why != "" {
		return 0, 0, 0, nil
	}
	n = idlePeer
	if e == b.daemon {
		n = idle
	}
	if err := pause(ctx, settle); err != nil {
		return 0, 0, n, err
	}
	own, kernel = pss(e.processes()), kernelMemory()
	var names []string
	for i := range n {
		names = append(names, "idle"+strconv.Itoa(i))
	}
	defer func() { // all of them, or the few that started
		if e := e.remove(context.WithoutCancel(ctx), names...); err == nil {
			err = e
		}
	}()
	for _, name := range names {
		if err := e.runIdle(ctx, name); err != nil {
			return 0, 0, n, err
		}
	}
	if err := pause(ctx, settle); err != nil {
		return 0, 0, n, err
	}
	return (pss(e.processes()) - own) / float64(n), (kernelMemory() - kernel) / float64(n), n, nil
}

// idleDaemon measures the engines that have a daemon.
func (b *bench) idleDaemon() measurement {
	const name = "memory of the idle daemon"
	return measurement{name, func(ctx context.Context) ([]row, error) {
		if err := pause(ctx, settle); err != nil {
			return nil, err
		}
		subjects := []subject{}
		for _, engine := range []*server{b.daemon, b.dockerd} {
			if engine.why != "" {
				subjects = append(subjects, subject{Name: engine.label, Missing: engine.why})
				continue
			}
			subjects = append(subjects, single(engine.label, pss(engine.processes())*1024/1e6, 1))
		}
		return []row{{Name: name, Unit: "MB PSS", Verdicts: judge(subjects, []target{atMost(40, "MB")}), Subjects: compare(subjects)}}, nil
	}}
}

// single describes one figure that stands for n things.
func single(name string, v float64, n int) subject {
	s := summarize(name, []float64{v})
	s.N = n
	return s
}

// pss returns the proportional set size of processes together, in kB: memory
// that several share counts for each by its part.
func pss(pids []int) float64 {
	total := 0.0
	for _, pid := range pids {
		total += kilobytes(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss")
	}
	return total
}

// kernelMemory returns what the whole machine's kernel uses for itself, in kB:
// objects, stacks, page tables, per-processor counters. See proc_meminfo(5).
func kernelMemory() float64 {
	total := 0.0
	for _, name := range []string{"Slab", "KernelStack", "PageTables", "Percpu"} {
		total += kilobytes("/proc/meminfo", name)
	}
	return total
}

// kilobytes reads a figure of a file of /proc; one that has gone is none.
func kilobytes(file, name string) float64 {
	kb, err := strconv.ParseFloat(strings.TrimSuffix(field(file, name), " kB"), 64)
	if err != nil {
		return 0
	}
	return kb
}
