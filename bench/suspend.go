package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/berthcloud/berth/internal/qemu"
)

// savedVM is a VM that is saved and goes on: as large as the bare QEMU's.
var savedVM = with(coldVM, "-d", "--network", "none", "--memory", "256m", "--name", "saved", "base", "sleep", "1000")

// suspend compares the saving of a VM to disk, and its going on from there, with what a
// bare QEMU takes for it: the same kernel, machine, processor and size of memory.
func (b *bench) suspend(n int) measurement {
	save, resume := "suspend of a VM of 256 MiB, "+b.support(), "resume of a VM of 256 MiB, "+b.support()
	const bare, synced = "bare QEMU to a file", "bare QEMU to a file that is synced"
	return measurement{save, func(ctx context.Context) (rows []row, err error) {
		argv, why := b.bareArguments(ctx)
		peer := func(name string, run func(context.Context, []string) (float64, error)) contender {
			c := contender{name: name, missing: installed("qemu-system-x86_64")}
			if c.missing == "" && why != nil {
				c.missing = why.Error()
			}
			c.run = func(ctx context.Context) (float64, error) { return run(ctx, argv) }
			return c
		}
		for _, c := range []comparison{
			// What is suspended survives the host, so Berth syncs it.
			{name: save, unit: "ms", runs: n, warmUp: 1, targets: []target{atMostOf(1.2, bare), atMostOf(1.2, synced)},
				contenders: []contender{{name: "berth", run: b.timeSuspend}, peer(bare, b.timeSave), peer(synced, b.timeSyncedSave)}},
			{name: resume, unit: "ms", runs: n, warmUp: 1, targets: []target{atMostOf(1.2, bare)},
				contenders: []contender{{name: "berth", run: b.timeResume}, peer(bare, b.timeLoad)}},
		} {
			more, err := c.measure(ctx)
			if err != nil {
				return nil, err
			}
			rows = append(rows, more...)
		}
		return rows, nil
	}}
}

func (b *bench) timeSuspend(ctx context.Context) (float64, error) {
	return b.withSaved(ctx, func() (float64, error) {
		return timed(func() error { return b.daemon.command(ctx, "suspend", "saved") })
	})
}

func (b *bench) timeResume(ctx context.Context) (float64, error) {
	return b.withSaved(ctx, func() (float64, error) {
		if err := b.daemon.command(ctx, "suspend", "saved"); err != nil {
			return 0, err
		}
		return timed(func() error { return b.daemon.command(ctx, "resume", "saved") })
	})
}

// withSaved measures with a VM that has just booted.
func (b *bench) withSaved(ctx context.Context, measure func() (float64, error)) (ms float64, err error) {
	if err := b.daemon.command(ctx, savedVM...); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, b.daemon.remove(context.WithoutCancel(ctx), "saved")) }()
	return measure()
}

// timeSave is how long QEMU takes to stop, to write its state to a file and to end.
func (b *bench) timeSave(ctx context.Context, argv []string) (float64, error) {
	return b.timeSaveOf(ctx, argv, func(*os.File) error { return nil })
}

// timeSyncedSave is timeSave of a state that survives the host.
func (b *bench) timeSyncedSave(ctx context.Context, argv []string) (float64, error) {
	return b.timeSaveOf(ctx, argv, (*os.File).Sync)
}

func (b *bench) timeSaveOf(ctx context.Context, argv []string, sync func(*os.File) error) (float64, error) {
	path := filepath.Join(b.dir, "bare.state")
	cmd, m, err := b.bareMonitor(ctx, argv, true)
	if err != nil {
		return 0, err
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	defer m.Close()
	state, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer state.Close()
	return timed(func() error {
		return errors.Join(m.Stop(ctx), m.SaveAll(ctx, state), sync(state), m.Quit(ctx))
	})
}

// timeLoad is how long a QEMU takes from its start until it goes on from a file.
func (b *bench) timeLoad(ctx context.Context, argv []string) (float64, error) {
	if _, err := b.timeSave(ctx, argv); err != nil {
		return 0, err
	}
	state, err := os.Open(filepath.Join(b.dir, "bare.state"))
	if err != nil {
		return 0, err
	}
	defer state.Close()
	start := time.Now()
	cmd, m, err := b.bareMonitor(ctx, with(argv, "-incoming", "defer"), false)
	if err != nil {
		return 0, err
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	defer m.Close()
	err = errors.Join(m.LoadAll(ctx, state, false), m.Cont(ctx))
	return milliseconds(time.Since(start)), err
}

// bareMonitor starts a bare QEMU, waits for its shell where it boots, and connects to
// its monitor.
func (b *bench) bareMonitor(ctx context.Context, argv []string, boots bool) (*exec.Cmd, *qemu.Monitor, error) {
	socket := filepath.Join(b.dir, "bare.qmp")
	cmd := exec.CommandContext(ctx, argv[0], append(argv[1:len(argv):len(argv)], "-qmp", "unix:"+socket+",server=on,wait=off")...)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, nil, err
	}
	if boots {
		err = shellIsUp(out)
	}
	for err == nil {
		m, derr := qemu.Dial(ctx, socket)
		if derr == nil {
			return cmd, m, nil
		}
		err = pause(ctx, time.Millisecond)
	}
	return nil, nil, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
}
