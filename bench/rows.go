package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

// measurements are the rows, in the order of SPECIFICATION.md.
func (b *bench) measurements() []measurement {
	few := max(5, b.runs/4)
	return []measurement{
		b.commands("run --rm --network none base true", 30, b.runs,
			b.berth("run", "--rm", "--network", "none", "base", "true"),
			b.docker("run", "--rm", "--network", "none", "base", "true"),
			b.podman("run", "--rm", "--network", "none", "base", "true"),
			b.crun(),
			b.unshare()),
		b.commands("run --rm base true, with the default network", 50, b.runs,
			b.berth("run", "--rm", "base", "true"),
			b.docker("run", "--rm", "base", "true")),
		b.vm(few),
		b.idleContainers(),
		b.idleDaemon(),
		b.commands("version", 10, b.runs,
			b.berth("version"),
			b.docker("version")),
	}
}

// commands measures whole commands against a target in milliseconds.
func (b *bench) commands(name string, target float64, n int, contenders ...contender) measurement {
	return measurement{name: name, measure: func(ctx context.Context) (row, error) {
		subjects, err := alternate(ctx, n, contenders)
		if err != nil {
			return row{}, err
		}
		return row{Name: name, Unit: "ms", Target: fmt.Sprintf("≤ %.0f ms", target), Met: subjects[0].Median <= target, Subjects: subjects}, nil
	}}
}

// vm compares a VM from command to exit with a bare QEMU from exec to the
// first output of a shell: the same kernel, machine and processor.
func (b *bench) vm(n int) measurement {
	const name, factor = "run --rm --vm base true, no hardware support", 1.5
	return measurement{name: name, measure: func(ctx context.Context) (row, error) {
		bare := b.bareQEMU(ctx)
		subjects, err := alternate(ctx, n, []contender{b.berth("run", "--rm", "--vm", "--virt", "para", "--network", "none", "base", "true"), bare})
		if err != nil {
			return row{}, err
		}
		met := bare.missing == "" && subjects[0].Median <= factor*subjects[1].Median
		return row{Name: name, Unit: "ms", Target: "≤ 1.5 × bare QEMU", Met: met, Subjects: subjects}, nil
	}}
}

// idle is how many containers share the cost that idleContainers divides.
const idle = 20

// settle is how long processes get to calm down before their memory counts.
const settle = 2 * time.Second

func (b *bench) idleContainers() measurement {
	const name, target = "memory of an idle container beyond its workload", 400
	return measurement{name: name, measure: func(ctx context.Context) (row, error) {
		subjects := []subject{}
		for _, engine := range []*server{b.daemon, b.dockerd, b.podmanEngine} {
			if why := engine.missing(); why != "" {
				subjects = append(subjects, subject{Name: engine.name(), Missing: why})
				continue
			}
			perContainer, err := b.overhead(ctx, engine)
			if err != nil && engine == b.daemon {
				return row{}, err
			}
			if err != nil {
				fmt.Fprintf(os.Stderr, "bench: %s: %v\n", engine.name(), err)
				subjects = append(subjects, subject{Name: engine.name(), Missing: "fails here"})
				continue
			}
			subjects = append(subjects, summarize(engine.name(), []float64{perContainer}))
		}
		return row{Name: name, Unit: "kB PSS", Target: fmt.Sprintf("≤ %d kB", target), Met: subjects[0].Median <= target, Subjects: compare(subjects)}, nil
	}}
}

// overhead starts idle containers and divides what the engine's own processes
// have grown by.
func (b *bench) overhead(ctx context.Context, e *server) (float64, error) {
	if err := pause(ctx, settle); err != nil {
		return 0, err
	}
	before := pss(e.processes())
	var names []string
	for i := range idle {
		name := fmt.Sprintf("idle%d", i)
		if err := e.command(ctx, "run", "-d", "--name", name, "--network", "none", "base", "sleep", "1000"); err != nil {
			return 0, err
		}
		names = append(names, name)
	}
	if err := pause(ctx, settle); err != nil {
		return 0, err
	}
	after := pss(e.processes())
	return (after - before) / idle, e.command(ctx, append([]string{"rm", "-f"}, names...)...)
}

func (b *bench) idleDaemon() measurement {
	const name, target = "memory of the idle daemon", 40
	return measurement{name: name, measure: func(ctx context.Context) (row, error) {
		subjects := []subject{}
		for _, engine := range []*server{b.daemon, b.dockerd} {
			if why := engine.missing(); why != "" {
				subjects = append(subjects, subject{Name: engine.name(), Missing: why})
				continue
			}
			subjects = append(subjects, summarize(engine.name(), []float64{pss(engine.processes()) / 1024}))
		}
		return row{Name: name, Unit: "MiB PSS", Target: fmt.Sprintf("≤ %d MB", target), Met: subjects[0].Median <= target, Subjects: compare(subjects)}, nil
	}}
}

// pause waits, unless the run is given up.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
