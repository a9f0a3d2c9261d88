package builder

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/moby/buildkit/executor"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/undo"
)

// A step of an untrusted build runs in a VM of its own:
//
//	layers and mounts ─▶ EROFS images ─▶ one read-only disk ─▶ guest: overlay, the command
//	                                                               │
//	BuildKit's snapshot ◀─ merge ◀─ EROFS image ◀─ package layer ◀─┘ a tar of what has changed
//
// No filesystem of the host is shared with it: what comes back is one stream, which is read as
// a layer of a stranger's image is. BuildKit's own mount of the snapshot stays, and takes
// what has changed.

// machineStep is a step that is to run in a VM.
type machineStep struct {
	*instance.Prepared
	files   []placed  // kept in the guest's memory
	root    string    // where the root filesystem's changes go; "" where it has none that stay
	changes []changed // of mounts
}

// placed is a file of the host that a step has at a path.
type placed struct{ source, target string }

// changed is a mount whose changes stay.
type changed struct {
	mount int // its index
	dir   string
}

// runMachine runs a step in a VM to its end.
func (x *runner) runMachine(ctx context.Context, now *running, root executor.Mount, mounts []executor.Mount, process executor.ProcessInfo, going func()) (err error) {
	var u undo.Stack
	defer u.Run(ctx, &err)
	s, err := x.prepareMachine(ctx, newID(), root, mounts, process, &u)
	if err != nil {
		return err
	}
	h, err := x.driver.Create(ctx, s.Prepared)
	if err != nil {
		return failed(ctx, err)
	}
	u.Add(h.Delete)
	defer x.learn()
	if _, err := h.Start(ctx); err != nil {
		return failed(ctx, err)
	}
	stepper, ok := h.(instance.Stepper)
	if !ok {
		return errors.New("no step of a build can run in it")
	}
	for _, f := range s.files {
		if err := place(ctx, stepper, f); err != nil {
			return failed(ctx, err)
		}
	}
	now.handle = h
	going()
	exit, err := step(ctx, h, stepper, process)
	if err != nil {
		return failed(ctx, err)
	}
	ended := exited(ctx, exit, process.Meta.ValidExitCodes)
	if ctx.Err() != nil {
		return ended
	}
	// What a failed step has put into a cache mount stays, as a container's does.
	if err := x.collect(ctx, stepper, s, ended == nil); err != nil {
		return errors.Join(ended, failed(ctx, err))
	}
	return ended
}

// step runs the command of a step, until it ends or the guest can go on no more.
func step(ctx context.Context, h instance.Handle, stepper instance.Stepper, process executor.ProcessInfo) (api.Exit, error) {
	m := process.Meta
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := forwardSignals(ctx, process.Signal, func(s syscall.Signal) { cancel(fmt.Errorf("it was ended by signal %d", s)) })
	defer stop()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		watch(ctx, h, cancel)
	}()
	x := api.Exec{Command: m.Args, Env: m.Env, User: m.User, WorkingDir: m.Cwd, TTY: m.Tty, Stdin: process.Stdin != nil}
	exit, err := stepper.Step(ctx, x, streams(ctx, process))
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	cancel(nil)
	<-watched
	return exit, err
}

// watchEvery is how often a guest is looked at while its step runs.
const watchEvery = 5 * time.Second

// watch ends a step whose guest stands still: because the host's disk is full, for one.
func watch(ctx context.Context, h instance.Handle, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if st, err := h.Status(ctx); err == nil && st.State == api.Paused {
				cancel(fmt.Errorf("its VM stands still: %s", st.Notice))
			}
		case <-ctx.Done():
			return
		}
	}
}

// place gives a guest a file.
func place(ctx context.Context, stepper instance.Stepper, f placed) error {
	file, err := os.Open(f.source)
	if err != nil {
		return err
	}
	defer file.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	r, w := io.Pipe()
	go func() {
		out := tar.NewWriter(w)
		header := &tar.Header{Typeflag: tar.TypeReg, Name: "file", Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid), Size: st.Size}
		err := out.WriteHeader(header)
		if err == nil {
			_, err = io.CopyN(out, file, st.Size)
		}
		if err == nil {
			err = out.Close()
		}
		w.CloseWithError(err)
	}()
	defer r.Close()
	return stepper.Place(ctx, f.target, r)
}

// collect takes over what a step has changed: in its cache mounts, and with whole in its
// root filesystem.
func (x *runner) collect(ctx context.Context, stepper instance.Stepper, s *machineStep, whole bool) error {
	if whole && s.root != "" {
		if err := x.takeOver(ctx, stepper, s, changed{-1, s.root}); err != nil {
			return err
		}
	}
	for _, c := range s.changes {
		if err := x.takeOver(ctx, stepper, s, c); err != nil {
			return err
		}
	}
	return nil
}

// takeOver takes over what was changed in one tree.
func (x *runner) takeOver(ctx context.Context, stepper instance.Stepper, s *machineStep, c changed) error {
	r, w := io.Pipe()
	var sent sync.WaitGroup
	sent.Go(func() { w.CloseWithError(stepper.Changes(ctx, c.mount, w)) })
	image := filepath.Join(s.Dir, "changes")
	err := convert(ctx, r, image)
	r.Close() // ends a guest that sends on
	sent.Wait()
	if err == nil {
		err = x.trees.merge(ctx, image, c.dir, c.mount >= 0)
	}
	return errors.Join(err, os.Remove(image))
}
