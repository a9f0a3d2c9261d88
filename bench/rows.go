package main

import (
	"context"
	"time"
)

// measurements are the rows, in the order of SPECIFICATION.md.
func (b *bench) measurements() []measurement {
	return append([]measurement{
		b.trueRun(),
		b.commands("run --rm --network none base true", b.runs, []target{atMost(15, "ms"), fasterThan(15, "docker")},
			b.berth("run", "--rm", "--network", "none", "base", "true"),
			b.docker("run", "--rm", "--network", "none", "base", "true"),
			b.podman("run", "--rm", "--network", "none", "base", "true")),
		b.commands("run --rm base true, with the default network", b.runs, []target{atMost(30, "ms")},
			b.berth("run", "--rm", "base", "true"),
			b.docker("run", "--rm", "base", "true")),
		b.manyStarts(),
		b.idleContainers(),
		b.smallestLimitOfRuntimes(),
		b.smallestLimitOfEngines(),
		b.engineExec(),
		b.runtimeExec(),
		b.vm(max(5, b.runs/4)),
		b.warmVMRun(max(5, b.runs/4)),
		b.vmExec(b.runs),
		b.idleMachines(),
		b.manyMachines(),
		b.suspend(max(5, b.runs/4)),
		b.archives(max(3, b.runs/10)),
		b.pulls(max(3, b.runs/10)),
		b.pushOfChange(),
		b.pushOfDisk(),
		b.diskOfInstances(),
		b.devices(max(5, b.runs/4)),
		b.idleDaemon(), // before there is a builder, which outlives builds by five minutes
		b.builds(max(3, b.runs/10)),
		b.commands("version", b.runs, []target{atMost(10, "ms")},
			b.berth("version"),
			b.docker("version")),
		b.inside(),
	}, append(b.lazyPulls(max(3, b.runs/10)), b.neighbor(max(5, b.runs/4))...)...)
}

// commands compares whole commands.
func (b *bench) commands(name string, n int, targets []target, contenders ...contender) measurement {
	return comparison{name: name, unit: "ms", runs: n, warmUp: warm, targets: targets, contenders: contenders}.measurement()
}

// engineExec compares a further command in a running container, from the command
// line through the daemon and back.
func (b *bench) engineExec() measurement {
	const name, container = "exec of true", "exec"
	return measurement{name, func(ctx context.Context) ([]row, error) {
		c := comparison{name: name, unit: "ms", runs: b.runs, warmUp: warm, targets: []target{atMost(10, "ms")}}
		for _, engine := range b.engines() {
			if engine.why == "" {
				if err := engine.runIdle(ctx, container); err != nil && engine == b.daemon {
					return nil, err
				} else if err != nil {
					c.contenders = append(c.contenders, contender{name: engine.label, missing: failed(engine.label, err)})
					continue
				}
				defer engine.remove(context.WithoutCancel(ctx), container)
			}
			c.contenders = append(c.contenders, engine.contender("exec", container, "true"))
		}
		return c.measure(ctx)
	}}
}

// vm compares a VM from command to exit with a bare QEMU from exec to the
// first output of a shell: the same kernel, machine and processor.
func (b *bench) vm(n int) measurement {
	name := "run --rm --vm base true, " + b.support()
	return measurement{name, func(ctx context.Context) ([]row, error) {
		bare := b.bareQEMU(ctx)
		return comparison{name: name, unit: "ms", runs: n, warmUp: warm, targets: []target{atMostOf(1.5, bare.name)},
			contenders: []contender{b.berth(with(coldVM, "--rm", "--network", "none", "base", "true")...), bare}}.measure(ctx)
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
