package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// devicesName begins the names of rows that want the guest kernel with all drivers.
const devicesName = "devices of a VM: "

// deviceMiB is the size of the file that guests read from their own disks.
const deviceMiB = 64

// driven is a VM with certain devices.
type driven struct {
	vm        string
	disk, nic string // what rows call it
	flags     []string
	pid       int
	cost      map[string][]float64 // of each row: QEMU's processor time, in the cost's unit
}

// devices compares the virtio devices of class para, on its own board and on PCI, with
// devices that are emulated whole: VMs of one kernel and image, each with a file of its
// own on its own disk, which the host has in memory.
func (b *bench) devices(n int) measurement {
	return measurement{devicesName + "virtio against full emulation", func(ctx context.Context) (rows []row, err error) {
		in := &inside{b, filepath.Join(b.dir, "devices"), filepath.Join(b.dir, "devices-data")}
		if err := in.makeImage(ctx); err != nil {
			return nil, err
		}
		all := []*driven{
			{vm: "para", disk: "virtio", nic: "virtio"},
			{vm: "pci", disk: "virtio on PCI", nic: "virtio on PCI", flags: []string{"--machine", "pc"}},
			{vm: "ide", disk: "IDE", nic: "e1000", flags: []string{"--machine", "pc", "--disk-bus", "ide", "--nic-model", "e1000"}},
			{vm: "ahci", disk: "AHCI", flags: []string{"--machine", "pc", "--disk-bus", "ahci", "--network", "none"}},
		}
		for _, d := range all {
			defer b.daemon.remove(context.WithoutCancel(ctx), d.vm)
			if err := in.drive(ctx, d); err != nil {
				return nil, fmt.Errorf("%s: %w", d.vm, err)
			}
		}
		for _, t := range []deviceTask{
			{what: "4k random reads", unit: "/s", kind: "reads", targets: []target{atLeastOf(1.5, "IDE")}, costUnit: "µs each", units: reads, scale: 1e6},
			{what: "sequential reads", unit: "MiB/s", kind: "stream", costUnit: "ms for 100 MiB", units: streamed / 100.0, scale: 1e3},
		} {
			more, err := t.read(ctx, in, n, all)
			if err != nil {
				return rows, err
			}
			rows = append(rows, more...)
		}
		more, err := in.trafficOf(ctx, n, all[:3])
		return append(rows, more...), err
	}}
}

// drive starts a VM and gives it its file.
func (in *inside) drive(ctx context.Context, d *driven) error {
	d.cost = map[string][]float64{}
	flags := slices.Concat(coldVM, []string{"-d", "--kernel", "kernel/debian-standard", "--name", d.vm}, d.flags)
	if err := in.daemon.command(ctx, append(flags, insideName, "sleep", "100000")...); err != nil {
		return err
	}
	said, err := output(ctx, with(in.daemon.cli, "inspect", "--format", "{{.Status.PID}}", d.vm)...)
	if err == nil {
		d.pid, err = strconv.Atoi(said)
	}
	if err != nil {
		return err
	}
	copied := fmt.Sprintf("/bin/busybox dd if=/%s of=/file bs=1M count=%d conv=fsync", dataFile, deviceMiB)
	return in.daemon.command(ctx, "exec", d.vm, "/bin/busybox", "sh", "-c", copied)
}

// deviceTask is work of the guest's whose device is the question.
type deviceTask struct {
	what, unit string
	kind       string // of work
	targets    []target
	costUnit   string
	units      float64 // of the cost, in one run
	scale      float64 // of the cost's unit to a second
}

// read compares reads of the guest's disk.
func (t deviceTask) read(ctx context.Context, in *inside, n int, all []*driven) ([]row, error) {
	var contenders []contender
	var costs []func() subject
	for _, d := range all {
		argv := slices.Concat(in.daemon.cli, []string{"exec", d.vm, "/bin/work", t.kind, "/file"})
		c := d.costed(t, contender{name: d.disk, run: func(ctx context.Context) (float64, error) {
			out, err := output(ctx, argv...)
			if err != nil {
				return 0, err
			}
			return strconv.ParseFloat(out, 64)
		}})
		contenders, costs = append(contenders, c), append(costs, d.costs(t, c.name))
	}
	return t.rows(ctx, n, contenders, costs)
}

// trafficOf compares TCP between guests and the host's end of their bridge.
func (in *inside) trafficOf(ctx context.Context, n int, all []*driven) (rows []row, err error) {
	if why := installed("iperf3"); why != "" {
		return nil, errors.New(why)
	}
	gateway, end, err := in.gateway(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	const mib = 64
	for _, way := range []struct {
		name string
		flag []string
	}{{"out", nil}, {"in", []string{"-R"}}} {
		t := deviceTask{what: "TCP, " + way.name, unit: "Gbit/s", targets: []target{atLeastOf(2, "e1000")}, costUnit: "ms for 100 MiB", units: mib / 100.0, scale: 1e3}
		var contenders []contender
		var costs []func() subject
		for _, d := range all {
			argv := slices.Concat(in.daemon.cli, []string{"exec", d.vm, "/bin/iperf3", "-c", gateway, "-J", "-n", fmt.Sprintf("%dM", mib)}, way.flag)
			c := d.costed(t, traffic(d.nic, argv))
			contenders, costs = append(contenders, c), append(costs, d.costs(t, c.name))
		}
		more, err := t.rows(ctx, n, contenders, costs)
		if err != nil {
			return rows, err
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

// costed has a contender note what its VM's QEMU takes of the host's processor.
func (d *driven) costed(t deviceTask, c contender) contender {
	run := c.run
	c.run = func(ctx context.Context) (float64, error) {
		before, err := processorTime(d.pid)
		if err != nil {
			return 0, err
		}
		figure, err := run(ctx)
		if err != nil {
			return 0, err
		}
		after, err := processorTime(d.pid)
		d.cost[t.what] = append(d.cost[t.what], (after-before)*t.scale/t.units)
		return figure, err
	}
	return c
}

// costs describes what the runs of a task took, but for the first, which warms up.
func (d *driven) costs(t deviceTask, name string) func() subject {
	return func() subject {
		taken := d.cost[t.what]
		return summarize(name, taken[min(1, len(taken)):])
	}
}

// rows makes the row of a task, and the row of what it took of the host.
func (t deviceTask) rows(ctx context.Context, n int, contenders []contender, costs []func() subject) ([]row, error) {
	name := devicesName + t.what
	rows, err := comparison{name: name, unit: t.unit, runs: n, warmUp: 1, targets: t.targets, contenders: contenders}.measure(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var took []subject
	for _, cost := range costs {
		took = append(took, cost())
	}
	return append(rows, row{Name: "… QEMU's processor time", Unit: t.costUnit, Verdicts: judge(took, nil), Subjects: compare(took)}), nil
}

// processorTime is what a process has had, with threads that have ended, in seconds.
func processorTime(pid int) (float64, error) {
	const scheduled = 2 // CPUCLOCK_SCHED of posix-timers.h: a clock of the process's, as clock_getcpuclockid(3) names it
	var spent unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|scheduled), &spent); err != nil {
		return 0, os.NewSyscallError("clock_gettime", err)
	}
	return float64(spent.Nano()) / 1e9, nil
}
