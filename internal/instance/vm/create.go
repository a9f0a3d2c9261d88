package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/disk"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/keeper"
	"github.com/berthcloud/berth/internal/link"
	"github.com/berthcloud/berth/internal/qemu"
	"github.com/berthcloud/berth/internal/undo"
)

// Create makes the machine and leaves its processor stopped.
func (d *Driver) Create(ctx context.Context, p *instance.Prepared) (instance.Handle, error) {
	if _, err := os.Stat(p.SavedDir()); err == nil {
		h, err := d.createSaved(ctx, p)
		if err != nil {
			return nil, err
		}
		return h, nil
	}
	plan, err := newPlan(p, d.cfg.Host, d.cfg.Cache)
	if err != nil {
		return nil, err
	}
	if p.Rootfs.Image == nil {
		if err := d.ensureInitramfs(p.Kernel, plan.Machine); err != nil {
			return nil, api.E("create", "", p.Spec.Name, err)
		}
	}
	h, err := d.createWarm(ctx, p, plan)
	if err != nil {
		return nil, err // and no handle, which an interface would hold
	}
	return h, nil
}

// create carries out a plan.
func (d *Driver) create(ctx context.Context, p *instance.Prepared, plan *plan) (_ *handle, err error) {
	fail := func(err error) (*handle, error) { return nil, api.E("create", "", p.Spec.Name, err) }
	var u undo.Stack
	defer u.Run(ctx, &err)

	h := d.handle(p, runFile{
		Machine: plan.Machine, Notice: plan.Notice, CPUs: plan.machine.CPUs, Memory: plan.machine.Memory, Disk: p.Rootfs.DiskSize,
		MaxCPUs: plan.machine.MaxCPUs, MaxMemory: plan.machine.MaxMemory,
		Layout: &plan.machine, Resumed: plan.saved, Copied: plan.copied,
	})
	// Everything below is taken back by the one function that also ends a run.
	u.Add(h.clean)
	if plan.saved {
		err = errors.Join(d.PutDisks(ctx, p, p.SavedDir()), h.takeFiles())
		if err == nil && plan.copied != nil && h.startsItself() {
			err = h.makeSeed(ctx, plan) // its guest reads that again when it reboots
		}
	} else {
		err = h.makeDisks(ctx, plan)
	}
	if err != nil {
		return fail(err)
	}
	if err := h.writeFiles(ctx, plan); err != nil {
		return fail(err)
	}
	for _, i := range p.Interfaces {
		err := link.MakeTap(link.Tap{Name: i.HostName, Bridge: i.Bridge, Owner: int(p.Users.First), MTU: i.MTU})
		if err != nil {
			return fail(err)
		}
	}
	groups, err := h.makeGroup(plan.Limits)
	if err != nil {
		return fail(err)
	}
	for _, s := range plan.Shares {
		if err := h.startShare(ctx, s, groups.all()); err != nil {
			return fail(err)
		}
	}
	if err := h.startTPM(ctx, plan.TPM, groups.all()); err != nil {
		return fail(err)
	}
	if _, err := d.cfg.Keeper.Start(ctx, h.process(plan, groups)); err != nil {
		return fail(err)
	}
	load := h.load
	if plan.saved {
		load = h.loadSaved
	}
	if plan.state != "" {
		if err := load(ctx, plan.state); err != nil {
			return fail(err)
		}
	}
	u.Release()
	return h, nil
}

// process is QEMU as the keeper keeps it.
func (h *handle) process(plan *plan, groups cgroups) keeper.Process {
	in := h.inRun
	stdio := keeper.Stdio{Kind: keeper.Sockets, Console: true, OpenStdin: h.p.Process.OpenStdin, StdinOnce: h.p.Process.StdinOnce, StdoutSocket: in("out")}
	if h.p.Process.OpenStdin {
		stdio.StdinSocket, stdio.StdinAsked = in("in"), plan.machine.Full
	}
	if !h.p.Process.TTY {
		stdio.StderrSocket = in("err")
	}
	if h.startsItself() { // its serial line, both ways
		stdio = keeper.Stdio{Kind: keeper.Sockets, OpenStdin: true, StdinSocket: in("out"), StdoutSocket: in("out")}
	}
	process := h.launcher(stdio, groups)
	if h.p.LogPath != "" {
		process.Log = &keeper.Log{Path: h.p.LogPath}
	}
	return process
}

// launcher is what becomes QEMU. It enters the cgroups by itself where it can: the
// keeper would start one more program for that.
func (h *handle) launcher(stdio keeper.Stdio, groups cgroups) keeper.Process {
	return keeper.Process{
		ID: h.p.ID, Mode: keeper.Direct, Args: append([]string{h.driver.cfg.Launcher, "machine", h.inRun("qemu.json")}, groups.tasks...),
		Stdio: stdio, Birthplace: groups.unified, MemoryCgroup: groups.memory, Alone: true,
	}
}

// makeDisks makes the writable disk where there is none, and gives it to
// QEMU's user.
func (h *handle) makeDisks(ctx context.Context, plan *plan) error {
	if h.startsItself() {
		return errors.Join(h.makeGuestDisks(plan), h.makeSeed(ctx, plan))
	}
	path := h.p.Rootfs.Disk
	if path == "" {
		return nil
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		err = h.makeDisk(ctx, path, !plan.Guest.Transient)
	case err == nil && info.Size() < h.p.Rootfs.DiskSize: // the guest grows into it
		err = os.Truncate(path, h.p.Rootfs.DiskSize)
	}
	if err != nil {
		return err
	}
	uid := int(plan.machine.UID)
	return os.Chown(path, uid, uid)
}

// makeDisk makes the disk at path, under another name first: one without a whole
// filesystem must not be taken for a disk after a crash.
func (h *handle) makeDisk(ctx context.Context, path string, durable bool) error {
	partial := path + ".new"
	if err := os.Remove(partial); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	template, err := h.driver.ensureTemplate(ctx, h.p.Rootfs.DiskSize, durable)
	if err != nil {
		return err
	}
	if err := disk.CloneExt4(partial, template, durable); err != nil {
		return err
	}
	return os.Rename(partial, path)
}

// writeFiles writes what the launcher, QEMU and the guest read.
func (h *handle) writeFiles(ctx context.Context, plan *plan) error {
	if h.startsItself() || plan.saved { // a saved machine brings along what its guest reads
		return h.writeGuestFiles(ctx, plan)
	}
	if err := plan.markFiles(); err != nil {
		return err
	}
	config, err := plan.Guest.Encode()
	if err != nil {
		return err
	}
	layers := plan.machine.Disks[0]
	parts := []disk.Part{{Name: "config", Path: qemu.ExtentName(0, 1), Size: int64(len(config))}}
	for i, part := range partsOf(h.p) {
		info, err := os.Stat(part)
		if err != nil {
			return err
		}
		parts = append(parts, disk.Part{Name: fmt.Sprintf("layer-%d", i+1), Path: qemu.ExtentName(0, i+2), Size: info.Size()})
	}
	joined, err := disk.Join(parts, layers.Size, qemu.ExtentName(0, 0), qemu.ExtentName(0, len(layers.Extents)-1))
	if err != nil {
		return err
	}
	if plan.QEMU.Program, err = h.driver.needs(ctx, plan.QEMU.Args[0], qemu.Needs); err != nil {
		return err
	}
	launch, err := plan.QEMU.Encode()
	if err != nil {
		return err
	}
	run, err := json.Marshal(h.run)
	if err != nil {
		return err
	}
	for _, mark := range []string{"killed", "woken", crashFile, heldMark} {
		if err := os.Remove(h.inRun(mark)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := h.makeOverlay(layers, layers.Size); err != nil {
		return err
	}
	type file struct {
		path string
		data []byte
		at   int64
	}
	files := []file{
		{h.inRun("config"), config, 0}, {h.inRun("head"), joined.Head, 0}, {h.inRun("tail"), joined.Tail, joined.Hole},
		{h.inRun("layers.vmdk"), []byte(joined.Descriptor), 0}, {exitPath(h.p), nil, 0},
		{h.inRun("qemu.json"), launch, 0}, {h.inRun("run.json"), run, 0},
	}
	if plan.Machine.Graphics {
		files = append(files, file{h.inRun(vncFile), []byte(newVNCPassword()), 0})
	}
	for _, f := range files {
		if err := writeFile(f.path, f.data, f.at); err != nil {
			return err
		}
	}
	return nil
}

// writeFile writes a file of root's alone, which has a hole before its content where
// that does not begin at 0.
func writeFile(path string, data []byte, at int64) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteAt(data, at)
	return errors.Join(err, file.Close())
}

// makeOverlay makes the file that takes what a guest writes to a disk that it
// should only read, where the disk has one.
func (h *handle) makeOverlay(d qemu.Disk, size int64) error {
	if d.Overlay == "" {
		return nil
	}
	if err := os.Remove(d.Overlay); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return disk.CreateQcow2(d.Overlay, size)
}

// clean takes back all that Create makes. It is content with what is missing,
// so it may be called at any time.
func (h *handle) clean(ctx context.Context) error {
	k := h.driver.cfg.Keeper
	errs := []error{h.forget(ctx, k, h.p.ID)}
	// QEMU is gone before what it used.
	for i := range h.p.Mounts {
		errs = append(errs, h.forget(ctx, k, shareID(h.p.ID, i)))
	}
	if h.run.Machine.TPM {
		errs = append(errs, h.forget(ctx, k, tpmID(h.p.ID)))
	}
	group, err := h.group(nil)
	if err == nil && group != nil {
		err = group.Destroy()
	}
	errs = append(errs, err)
	// run.json goes last: as long as it stands, the run can be found and
	// cleaned again.
	names := []string{"config", "head", "tail", "layers.vmdk", "qemu.json", "qmp", "ctl", "in", "out", "err", "wake", "woken", "killed", "seed", vncFile, "tpm", "tpm.json", "events", crashFile, savingMark, heldMark, "run.json"}
	for i := range h.p.Mounts {
		names = append([]string{fmt.Sprintf("fs%d", i), fmt.Sprintf("fs%d.json", i)}, names...)
	}
	paths := []string{exitPath(h.p), overlayPath(h.p)}
	for _, name := range names {
		paths = append(paths, h.inRun(name))
	}
	for _, path := range paths {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// forget ends a kept process and has the keeper drop it.
func (h *handle) forget(ctx context.Context, k *keeper.Client, id string) error {
	err := k.Signal(ctx, id, sigKill)
	switch {
	case api.IsKind(err, api.NotFound):
		return nil
	case err == nil:
		if _, err := k.Wait(ctx, id); err != nil {
			return err
		}
	case !api.IsKind(err, api.Conflict):
		return err
	}
	return k.Forget(ctx, id)
}

// initramfsPath is where the initramfs of a kernel for machines with the drivers
// is kept.
func initramfsPath(cache, release string, d drivers) string {
	name := "initramfs-" + strings.ReplaceAll(release, "/", "_")
	if d.full {
		name += "-full"
	}
	if !d.virtual() {
		name += fmt.Sprintf("-%s-%s", d.disk, d.nic)
	}
	if d.show != "" {
		name += "-" + d.show
	}
	if names := d.crash(); len(names) > 0 {
		name += "-" + strings.Join(names, "-")
	}
	return filepath.Join(cache, name)
}

// ensureTemplate makes what the disks of one size are clones of, where there is
// none, and returns its path. Only a disk that is used again needs a journal.
func (d *Driver) ensureTemplate(ctx context.Context, size int64, journal bool) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name := fmt.Sprintf("disk-%d.1", size) // the number changes with what CreateExt4 makes
	if !journal {
		name += "-no-journal"
	}
	path := filepath.Join(d.cfg.Cache, name)
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return path, err
	}
	partial := path + ".new"
	if err := os.Remove(partial); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	if err := disk.CreateExt4(ctx, partial, size, journal); err != nil {
		return "", err
	}
	return path, os.Rename(partial, path)
}

// ensureInitramfs makes the initramfs of a kernel for a machine where there is none
// or where the agent has changed since.
func (d *Driver) ensureInitramfs(k instance.Kernel, m api.Machine) (err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := os.MkdirAll(d.cfg.Cache, 0o755); err != nil {
		return err
	}
	path, agent := initramfsPath(d.cfg.Cache, k.Release, driversOf(m)), d.cfg.Agents[m.Arch]
	info, err := os.Stat(agent)
	if err != nil {
		return fmt.Errorf("the guest agent for %s is not installed: %w", m.Arch, err)
	}
	stamp := fmt.Sprintf("%s %d %d %s\n", agent, info.Size(), info.ModTime().UnixNano(), k.Modules)
	if have, err := os.ReadFile(path + ".stamp"); err == nil && string(have) == stamp {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
	}
	modules, err := disk.OpenModules(os.DirFS(k.Modules))
	if err != nil {
		return fmt.Errorf("guest kernel %s: %w", k.Release, err)
	}
	// A guest that starts now may read the old file: the new one takes its name.
	file, err := os.CreateTemp(d.cfg.Cache, "initramfs-new-*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	err = errors.Join(writeInitramfs(file, agent, modules, driversOf(m)), file.Chmod(0o644), file.Close())
	if err != nil {
		return api.E("", "", "guest kernel "+k.Release, err)
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return err
	}
	return os.WriteFile(path+".stamp", []byte(stamp), 0o644)
}
