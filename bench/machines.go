package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// machines is how many idle VMs share the cost that idleMachines divides.
const machines = 8

// sequence is how many VMs are run one after another.
const sequence = 50

// Arguments of VMs that emulate, whatever the host has.
var (
	warmVM = []string{"run", "--vm", "--virt", "para"}
	coldVM = with(warmVM, "--cold-boot")
)

// with is a command line of more arguments.
func with(args []string, more ...string) []string {
	return append(slices.Clip(args), more...)
}

// template returns once machines of a kind begin as copies: their first boot has had
// a template made.
func (b *bench) template(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	name := []string{"-d", "--name", "template"}
	for {
		if err := b.daemon.command(ctx, with(with(warmVM, name...), append(args, "base", "sleep", "1000")...)...); err != nil {
			return err
		}
		from, err := output(ctx, with(b.daemon.cli, "inspect", "--format", "{{.Status.Machine.Template}}", "template")...)
		if err := errors.Join(err, b.daemon.remove(ctx, "template")); from != "" || err != nil {
			return err
		}
		if err := pause(ctx, time.Second); err != nil {
			return errors.New("no template was made; see berthd's log")
		}
	}
}

// warmVMRun compares a VM that begins as a copy of a template with one that boots, and
// with a container.
func (b *bench) warmVMRun(n int) measurement {
	const name = "run --rm --vm base true, from a template"
	return measurement{name, func(ctx context.Context) ([]row, error) {
		if err := b.template(ctx, "--network", "none"); err != nil {
			return nil, err
		}
		once := []string{"--rm", "--network", "none", "base", "true"}
		cold, box := b.berth(with(coldVM, once...)...), b.berth(with([]string{"run"}, once...)...)
		cold.name, box.name = "booted", "container"
		return comparison{name: name, unit: "ms", runs: n, warmUp: warm, targets: []target{atMost(150, "ms")},
			contenders: []contender{b.berth(with(warmVM, once...)...), cold, box}}.measure(ctx)
	}}
}

// vmExec measures a command in a running VM.
func (b *bench) vmExec(n int) measurement {
	name, machine := "exec of true in a VM, "+b.support(), "exec"
	return measurement{name, func(ctx context.Context) ([]row, error) {
		if err := b.daemon.command(ctx, with(warmVM, "-d", "--name", machine, "base", "sleep", "1000")...); err != nil {
			return nil, err
		}
		defer b.daemon.remove(context.WithoutCancel(ctx), machine)
		return comparison{name: name, unit: "ms", runs: n, warmUp: warm, targets: []target{atMost(25, "ms")},
			contenders: []contender{b.berth("exec", machine, "true")}}.measure(ctx)
	}}
}

// idleMachines measures what an idle VM of 512 MiB costs, and its share of berthd and
// its keeper.
func (b *bench) idleMachines() measurement {
	name := "memory of an idle VM of 512 MiB, " + b.support()
	return measurement{name, func(ctx context.Context) ([]row, error) {
		size := []string{"--network", "none", "--memory", "512m"}
		if err := b.template(ctx, size...); err != nil {
			return nil, err
		}
		var whole, shares []subject
		for _, kind := range []struct {
			name string
			args []string
		}{{"from a template", with(warmVM, size...)}, {"booted", with(coldVM, size...)}, {"container", []string{"run", "--network", "none"}}} {
			each, share, err := b.idleOnes(ctx, kind.args)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", kind.name, err)
			}
			whole, shares = append(whole, single(kind.name, each, machines)), append(shares, single(kind.name, share, machines))
		}
		return []row{
			{Name: name, Unit: "MB PSS", Verdicts: judge(whole, []target{atMost(60, "MB")}), Subjects: compare(whole)},
			{Name: "memory of Berth's own processes for an idle VM", Unit: "kB PSS", Verdicts: judge(shares, []target{atMost(300, "kB")}), Subjects: compare(shares)},
		}, nil
	}}
}

// idleOnes starts idle instances and returns what each takes, in MB, and by how much
// the engine's own processes have grown for each, in kB.
func (b *bench) idleOnes(ctx context.Context, args []string) (each, share float64, err error) {
	if err := pause(ctx, settle); err != nil {
		return 0, 0, err
	}
	own := pss(b.ownProcesses())
	var names []string
	defer func() {
		err = errors.Join(err, b.daemon.remove(context.WithoutCancel(ctx), names...))
	}()
	var pids []int
	for i := range machines {
		name := "idle" + strconv.Itoa(i)
		if err := b.daemon.command(ctx, with(args, "-d", "--name", name, "base", "sleep", "100000")...); err != nil {
			return 0, 0, err
		}
		names = append(names, name)
		said, err := output(ctx, with(b.daemon.cli, "inspect", "--format", "{{.Status.PID}}", name)...)
		if err != nil {
			return 0, 0, err
		}
		pid, err := strconv.Atoi(said)
		if err != nil {
			return 0, 0, err
		}
		pids = append(pids, pid)
	}
	if err := pause(ctx, settle); err != nil {
		return 0, 0, err
	}
	return pss(pids) * 1024 / 1e6 / machines, (pss(b.ownProcesses()) - own) / machines, nil
}

// ownProcesses are Berth's: without containers and machines, one of which may be about
// to become a template.
func (b *bench) ownProcesses() []int {
	return family(b.daemon.dir, func(argv []string) bool {
		return strings.HasSuffix(argv[0], "sleep") || strings.Contains(argv[0], "qemu-system-")
	})
}

// manyMachines runs VMs one after another, each with one command executed in it.
func (b *bench) manyMachines() measurement {
	name := fmt.Sprintf("%d VMs from a template, one after another: run, exec, rm", sequence)
	return measurement{name, func(ctx context.Context) ([]row, error) {
		if err := b.template(ctx); err != nil {
			return nil, err
		}
		return comparison{name: name, unit: "ms each", runs: sequence, contenders: []contender{{name: "berth", run: func(ctx context.Context) (float64, error) {
			return timed(func() error {
				for _, args := range [][]string{with(warmVM, "-d", "--name", "one", "base", "sleep", "1000"), {"exec", "one", "true"}, {"rm", "-f", "one"}} {
					if err := b.daemon.command(ctx, args...); err != nil {
						return err
					}
				}
				return nil
			})
		}}}}.measure(ctx)
	}}
}
