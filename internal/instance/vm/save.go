package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
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
//	volume-NAME         its further disks: where they were asked for
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

// savingMark of the run directory is about the saved machine that is being written.
const savingMark = "saving"

// saving is the content of savingMark.
type saving struct {
	Dir    string `json:"dir"`              // that is being written
	Paused bool   `json:"paused,omitempty"` // the machine stood still before
}

// maxState is how long a state may be: each page has a header, and devices are small.
func maxState(memory int64) int64 { return memory + memory/64 + 256<<20 }

// Save writes the machine to dir.
func (h *handle) Save(ctx context.Context, dir string, o instance.SaveOptions) error {
	op := map[bool]string{true: "suspend", false: "snapshot"}[o.End]
	if o.Copy {
		op = "clone"
	}
	if err := h.savable(o); err != nil {
		return h.fail(op, err)
	}
	s := saving{Dir: dir + ".new"}
	err := h.awaitSettled(ctx)
	if err == nil {
		err = h.beginSaving(ctx, &s)
	}
	if err == nil {
		if held := h.holdToSave(ctx, s); o.Copy {
			err = held
		}
	}
	if err == nil {
		err = h.write(ctx, s.Dir, o)
	}
	if err == nil && o.End {
		err = commitDir(s.Dir, dir)
	}
	// Whatever has become of the caller's request, the machine ends, or goes on.
	whole := context.WithoutCancel(ctx)
	if err == nil && o.End {
		return h.fail(op, h.quit(whole))
	}
	// It does not wait for the disk to take in what was written.
	err = endSaving(err, h.goOn(whole))
	if err == nil {
		err = commitDir(s.Dir, dir)
	}
	if err != nil {
		err = errors.Join(err, os.RemoveAll(s.Dir))
	}
	return h.fail(op, err)
}

// endSaving is why a machine was not saved, of the errors of the saving and of its going
// on: where QEMU has ended, that says all.
func endSaving(saved, gone error) error {
	switch {
	case gone == nil:
		return saved
	case api.IsKind(gone, api.NotFound): // and its run is not kept any more
		return api.E("", api.Conflict, "", errors.New("it ended while it was being saved: 'berth ps -a' shows why"))
	case broken(saved):
		return gone
	}
	return errors.Join(saved, gone)
}

// beginSaving makes the directory that is to be written, and the mark.
func (h *handle) beginSaving(ctx context.Context, s *saving) error {
	state, err := h.runState(ctx)
	switch {
	case err != nil:
		return err
	case state != qemu.StateRunning && state != qemu.StatePaused:
		return api.E("", api.Conflict, "", fmt.Errorf("its machine stands still by itself (%s): 'berth inspect %s' says why", state, h.p.Spec.Name))
	}
	s.Paused = state == qemu.StatePaused
	mark, err := json.Marshal(s)
	if err == nil {
		err = os.RemoveAll(s.Dir)
	}
	if err == nil {
		err = os.Mkdir(s.Dir, 0o700)
	}
	if err == nil {
		err = os.WriteFile(h.inRun(savingMark), mark, 0o600)
	}
	return err
}

// holdToSave holds a guest that is to be saved. One that does not hold itself is saved as
// well, but no copy of it can become another machine.
func (h *handle) holdToSave(ctx context.Context, s saving) error {
	if s.Paused && !isHeld(h.p.RunDir) {
		return api.E("", api.Conflict, "", errors.New("its agent did not answer when it was paused, so no copy of it could be given an identity of its own: unpause it first"))
	}
	if err := h.hold(ctx); err != nil {
		return api.E("", "", "", fmt.Errorf("no copy of it could be given an identity of its own; stop it first: %w", err))
	}
	return nil
}

// savable says why a machine cannot be saved, before anything is touched.
func (h *handle) savable(o instance.SaveOptions) error {
	switch layout := h.run.Layout; {
	case layout == nil:
		return unsupported("it was started by a berthd that saved no machines: restart it first")
	case len(layout.Shares) > 0:
		return unsupported("it mounts directories of the host by virtiofs, which QEMU cannot save: stop it, or make it without -v")
	case h.run.Machine.TPM && !o.End:
		return errTPM()
	case o.Disks && !o.Volumes && len(volumeDisks(h.p)) > 0:
		return unsupported("it writes to further disks, which are volumes, and its memory fits only them as they are: 'berth snapshot create --volumes' keeps them too, and a restore puts them back; or stop it for a snapshot of its own disk")
	case layout.CPUs != h.run.CPUs || layout.Memory != h.run.Memory:
		return unsupported("it was given processors or memory while it runs, which a saved machine cannot get back: restart it first")
	}
	return nil
}

func errTPM() error {
	return unsupported("it has a TPM, which must not be put back to what it was, or be there twice: make it without --tpm")
}

// write fills the directory of a saved machine.
func (h *handle) write(ctx context.Context, dir string, o instance.SaveOptions) error {
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
	run := h.run
	run.Dir = h.p.Dir
	if err := writeJSON(filepath.Join(dir, "run.json"), run); err != nil {
		return err
	}
	files := h.keptFiles()
	if o.Disks {
		maps.Copy(files, ownDisks(h.p))
	}
	if o.Volumes {
		maps.Copy(files, volumeDisks(h.p))
	}
	return keep(dir, files)
}

// keptFiles are those of a run that its guest knows, by their names in a saved machine.
func (h *handle) keptFiles() map[string]string {
	files := map[string]string{"exit": exitPath(h.p), "layers.qcow2": overlayPath(h.p)}
	for _, name := range []string{heldMark, "config", "head", "tail", "layers.vmdk", "seed"} {
		files[name] = h.inRun(name)
	}
	return files
}

// ownDisks are what an instance's machines write to and nobody else, by their names in a
// saved one.
func ownDisks(p *instance.Prepared) map[string]string {
	return map[string]string{"root": p.Rootfs.Disk, "uefi.fd": varsPath(p)}
}

// volumeDisks are the further disks that an instance's machines write to.
func volumeDisks(p *instance.Prepared) map[string]string {
	files := map[string]string{}
	for _, m := range p.Mounts {
		if m.Type == api.MountDisk && !m.ReadOnly {
			files[instance.SavedVolume+m.Name] = m.Source
		}
	}
	return files
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

// goOn lets a machine go on that was being saved, unless it stood still before.
func (h *handle) goOn(ctx context.Context) error {
	s, err := h.readSaving()
	if s == nil {
		return err
	}
	m, err := h.monitor(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	short, cancel := context.WithTimeout(ctx, monitorTimeout)
	defer cancel()
	steps := []func(context.Context) error{m.Settle, func(ctx context.Context) error { return m.PutBack(ctx, h.run.Layout) }, m.Cont}
	if s.Paused {
		// Only by going on does QEMU take its disks back, which it has given away as if
		// another QEMU went on with them. The guest is held meanwhile.
		steps = append(steps, m.Stop)
	}
	for _, step := range steps {
		if err := step(short); err != nil {
			return err
		}
	}
	if !s.Paused {
		if err := h.unhold(ctx, setClock); err != nil {
			return err
		}
	}
	return os.Remove(h.inRun(savingMark))
}

// readSaving reads the mark of a machine that is being saved; nil where it is not.
func (h *handle) readSaving() (*saving, error) {
	mark, err := os.ReadFile(h.inRun(savingMark))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var s saving
	return &s, json.Unmarshal(mark, &s)
}

// recover brings a run that was found again to where its berthd wanted it.
func (h *handle) recover(ctx context.Context) error {
	if _, err := os.Stat(h.p.SavedDir()); err == nil {
		return nil // the engine ends this run, and another goes on from there
	}
	if h.run.Resumed && h.sleeps() {
		return h.recoverResumed(ctx)
	}
	s, err := h.readSaving()
	if s != nil {
		return errors.Join(os.RemoveAll(s.Dir), h.goOn(ctx))
	}
	if _, held := os.Stat(h.inRun(heldMark)); held != nil || err != nil {
		return err
	}
	if state, err := h.runState(ctx); err != nil || state != qemu.StateRunning {
		return err
	}
	return h.unhold(ctx, refresh) // it was to be paused, or has just gone on
}
