package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/agent"
	"github.com/berthcloud/berth/internal/disk"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/qemu"
)

// A saved machine is a directory, which appears by a rename when it is whole:
//
//	run.json            what was decided of the run
//	state               memory and devices, QEMU's own stream
//	config, head, …     the run's generated parts of disks, as its guest has read them
//	exit, layers.qcow2  what the guest has written beside its disk
//	root, uefi.fd       its disk, and its firmware's variables: where they were asked for
//
// The machine stands still while it is saved, and berthd may die at any moment of it:
//
//	berthd                              QEMU
//	  │── mark "saving"                  │
//	  │── stop, set disks aside ───────▶ │
//	  │◀──────────── state, by a pipe ── │  berthd's death breaks the pipe
//	  │── rename: it is saved            │
//	  │── quit, or disks back and cont ▶ │  Adopt does that where berthd did not
//
// QEMU gets no file: what a guest that has taken it over can write is bounded here.

// savingMark of the run directory names the directory that is being written.
const savingMark = "saving"

// maxState is how long a state may be: each page has a header, and devices are small.
func maxState(memory int64) int64 { return memory + memory/64 + 256<<20 }

// Save writes the machine to dir.
func (h *handle) Save(ctx context.Context, dir string, o instance.SaveOptions) error {
	op := map[bool]string{true: "suspend", false: "snapshot"}[o.End]
	if err := h.savable(o); err != nil {
		return h.fail(op, err)
	}
	partial := dir + ".new"
	err := h.awaitSettled(ctx)
	if err == nil {
		err = os.RemoveAll(partial)
	}
	if err == nil {
		err = os.Mkdir(partial, 0o700)
	}
	if err == nil {
		err = os.WriteFile(h.inRun(savingMark), []byte(partial), 0o600)
	}
	if err == nil {
		err = h.write(ctx, partial, o.Disks)
	}
	if err == nil {
		err = commitDir(partial, dir)
	}
	// Whatever has become of the caller's request, the machine ends, or goes on.
	ctx = context.WithoutCancel(ctx)
	if err == nil && o.End {
		return h.fail(op, h.quit(ctx))
	}
	return h.fail(op, errors.Join(err, h.goOn(ctx)))
}

// savable says why a machine cannot be saved, before anything is touched.
func (h *handle) savable(o instance.SaveOptions) error {
	isDisk := func(m instance.Mount) bool { return m.Type == api.MountDisk }
	switch layout := h.run.Layout; {
	case layout == nil:
		return unsupported("it was started by a berthd that saved no machines: restart it first")
	case len(layout.Shares) > 0:
		return unsupported("it mounts directories of the host by virtiofs, which QEMU cannot save: stop it, or make it without -v")
	case h.run.Machine.TPM:
		return errTPM()
	case o.Disks && slices.ContainsFunc(h.p.Mounts, isDisk):
		return unsupported("it has further disks, which are volumes and no part of a snapshot, and its memory fits only them as they are: make it without them, or stop it for a snapshot of its own disk")
	case layout.CPUs != h.run.CPUs || layout.Memory != h.run.Memory:
		return unsupported("it was given processors or memory while it runs, which a saved machine cannot get back: restart it first")
	}
	return nil
}

func errTPM() error {
	return unsupported("it has a TPM, whose secrets are not saved: make it without --tpm")
}

// write fills the directory of a saved machine.
func (h *handle) write(ctx context.Context, dir string, disks bool) error {
	m, err := h.monitor(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	if err := m.Stop(ctx); err != nil {
		return err
	}
	if err := m.SetAside(ctx, h.run.Layout); err != nil {
		return err
	}
	if err := h.writeState(ctx, m, filepath.Join(dir, instance.SavedState)); err != nil {
		return err
	}
	files := h.keptFiles()
	if disks {
		maps.Copy(files, diskFiles(h.p))
	}
	return keep(dir, files)
}

// keptFiles are those of a run that its guest knows, by their names in a saved machine.
func (h *handle) keptFiles() map[string]string {
	files := map[string]string{"exit": exitPath(h.p), "layers.qcow2": overlayPath(h.p)}
	for _, name := range []string{"run.json", "config", "head", "tail", "layers.vmdk", "seed"} {
		files[name] = h.inRun(name)
	}
	return files
}

// diskFiles are what an instance's machines write to, by their names in a saved one.
func diskFiles(p *instance.Prepared) map[string]string {
	return map[string]string{"root": p.Rootfs.Disk, "uefi.fd": varsPath(p)}
}

// keep copies files that exist to a directory.
func keep(dir string, files map[string]string) error {
	for name, path := range files {
		err := disk.Clone(filepath.Join(dir, name), path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// writeState takes the stream that QEMU writes of a machine that stands still.
func (h *handle) writeState(ctx context.Context, m *qemu.Monitor, path string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer file.Close() // where it was not
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	_, _ = unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, pipeSize) // or as large as it is
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	taken := make(chan error, 1)
	go func() {
		most := maxState(h.run.Memory)
		n, err := io.CopyBuffer(&early{file: file}, io.LimitReader(r, most+1), make([]byte, pipeSize))
		if err == nil && n > most {
			err = fmt.Errorf("QEMU writes more than %d bytes of a machine with %d of memory", most, h.run.Memory)
		}
		if err != nil {
			r.Close() // QEMU gives up
		}
		taken <- err
	}()
	saved := m.SaveAll(ctx, w)
	w.Close()
	if saved != nil {
		_ = r.SetReadDeadline(time.Unix(1, 0))
	}
	err = <-taken
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
		return err // the cause of what QEMU says
	case saved != nil:
		return saved
	}
	return errors.Join(err, file.Close())
}

// early writes to a file that is to be brought to the disk, and has the kernel begin with
// that meanwhile: 40 ms for a state of 70 MB, where it would be 62 one after the other.
type early struct {
	file         *os.File
	begun, ended int64 // what the disk has been given, of what is written
}

// earlySize is how much of a file is given to the disk at a time, in bytes.
const earlySize = 8 << 20

func (e *early) Write(p []byte) (int, error) {
	n, err := e.file.Write(p)
	e.ended += int64(n)
	if e.ended-e.begun >= earlySize {
		// An error shows when the file is synced.
		_ = unix.SyncFileRange(int(e.file.Fd()), e.begun, e.ended-e.begun, unix.SYNC_FILE_RANGE_WRITE)
		e.begun = e.ended
	}
	return n, err
}

// pipeSize is how much of a state is on its way at a time, in bytes.
const pipeSize = 1 << 20

// commitDir gives a whole directory its name, for good.
func commitDir(partial, dir string) error {
	if err := disk.SyncTree(partial); err != nil {
		return err
	}
	if err := os.Rename(partial, dir); err != nil {
		return err
	}
	if err := disk.Sync(filepath.Dir(dir)); err != nil {
		return errors.Join(err, os.Rename(dir, partial))
	}
	return nil
}

// quit ends a machine that is saved.
func (h *handle) quit(ctx context.Context) error {
	if err := os.WriteFile(h.inRun("killed"), nil, 0o600); err != nil {
		return err
	}
	m, err := h.monitor(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	ctx, cancel := context.WithTimeout(ctx, monitorTimeout)
	defer cancel()
	return m.Quit(ctx)
}

// goOn lets a machine go on that was being saved, and removes what was written of a
// saved machine that did not become whole.
func (h *handle) goOn(ctx context.Context) error {
	partial, err := os.ReadFile(h.inRun(savingMark))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	removed := os.RemoveAll(string(partial))
	m, err := h.monitor(ctx)
	if err != nil {
		return errors.Join(removed, err)
	}
	defer m.Close()
	short, cancel := context.WithTimeout(ctx, monitorTimeout)
	defer cancel()
	for _, step := range []func() error{
		func() error { return m.Settle(short) },
		func() error { return m.PutBack(short, h.run.Layout) },
		func() error { return m.Cont(short) },
		func() error { return os.Remove(h.inRun(savingMark)) },
	} {
		if err := step(); err != nil {
			return errors.Join(removed, err)
		}
	}
	h.tellTime(ctx)
	return removed
}

// tellTime sets the guest's clock, which stood still. The machine goes on in any case;
// a wrong clock is no reason to say it does not.
func (h *handle) tellTime(ctx context.Context) {
	if h.startsItself() && !h.p.Rootfs.Image.Agent {
		return
	}
	short, cancel := context.WithTimeout(ctx, clockTimeout)
	defer cancel()
	_ = h.withAgent(short, func(c *agent.Client) error { return c.SetClock(short, time.Now()) })
}

// recover brings a run that was found again to where its berthd wanted it.
func (h *handle) recover(ctx context.Context) error {
	if _, err := os.Stat(h.p.SavedDir()); err == nil {
		return nil // the engine ends this run, and another goes on from there
	}
	if h.run.Resumed && h.sleeps() {
		return h.recoverResumed(ctx)
	}
	return h.goOn(ctx)
}
