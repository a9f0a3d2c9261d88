package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/storage"
	"github.com/berthcloud/berth/internal/undo"
)

// kernelName names the guest kernel of a VM: its own wish, else Debian's cloud
// kernel, or where a device is emulated the standard one, which has more drivers.
// That of another architecture than the host's has it as its tag.
func kernelName(vm api.VMSpec, arch, hostArch string) string {
	emulated := vm.Virtualization == api.VirtFull || vm.Graphics || vm.Watchdog ||
		vm.DiskBus != "" && vm.DiskBus != api.DiskVirtio || vm.NICModel != "" && vm.NICModel != api.NICVirtio
	name := "kernel/debian-cloud"
	switch {
	case vm.Kernel != "":
		return vm.Kernel
	case emulated:
		name = "kernel/debian-standard"
	}
	if arch != "" && arch != hostArch {
		name += ":" + arch
	}
	return name
}

// layersOf returns the layers of an image, bottom first. Of one that an image has twice,
// as steps of a build have that leave nothing, the upper is enough: it hides the lower
// one whatever lies between, and overlayfs takes no directory twice.
func layersOf(img image.Image) []storage.Layer {
	layers := make([]storage.Layer, 0, len(img.Layers))
	for i, l := range img.Layers {
		above := img.Layers[i+1:]
		if !slices.ContainsFunc(above, func(o image.Layer) bool { return o.EROFS == l.EROFS }) {
			layers = append(layers, storage.Layer{Digest: l.EROFS, Path: l.Path})
		}
	}
	return layers
}

// rootfs says where an instance's root filesystem comes from. Nothing of it is
// made yet.
func (e *Engine) rootfs(rec record, img image.Image) instance.Rootfs {
	var r instance.Rootfs
	dir, layers := e.dir(rec.ID), layersOf(img)
	if d := img.Disk; d != nil {
		r.Image = &instance.DiskImage{Path: d.Path, Size: d.Size, Firmware: d.Firmware, Agent: d.Agent}
		r.Disk, r.DiskSize = filepath.Join(dir, "root.qcow2"), rec.Spec.Limits.Disk
		return r
	}
	if rec.Spec.Kind == api.VM {
		for _, l := range layers {
			r.Layers = append(r.Layers, l.Path)
		}
		r.Disk, r.DiskSize = filepath.Join(dir, "root.raw"), rec.Spec.Limits.Disk
		return r
	}
	for _, l := range layers {
		r.Layers = append(r.Layers, e.storage.LayerDir(l))
	}
	r.Upper, r.Work = filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	return r
}

// prepareRootfs makes what rootfs names: a container's mounts and directories.
// A VM's disk is its driver's to make.
func (e *Engine) prepareRootfs(ctx context.Context, p *instance.Prepared, layers []storage.Layer, u *undo.Stack) error {
	if err := os.MkdirAll(p.Dir, 0o700); err != nil {
		return api.E("", api.Exhausted, p.Dir, err)
	}
	if p.Spec.Kind == api.VM {
		return nil
	}
	if p.Spec.AutoRemove { // it reboots: overlayfs takes no work directory again that was volatile
		if err := os.RemoveAll(p.Rootfs.Work); err != nil {
			return api.E("", "", p.Rootfs.Work, err)
		}
	}
	for _, dir := range []string{p.Rootfs.Upper, p.Rootfs.Work} {
		// The mode of upper is that of the container's root directory.
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return api.E("", api.Exhausted, dir, err)
		}
	}
	if _, err := e.storage.Mount(ctx, p.ID, layers); err != nil {
		return err
	}
	u.Add(func(context.Context) error { e.storage.Release(p.ID); return nil })
	return nil
}

// adoptRootfs acquires anew what prepareRootfs acquired for a run that still exists.
func (e *Engine) adoptRootfs(p *instance.Prepared) error {
	if p.Spec.Kind == api.VM {
		return nil
	}
	return e.storage.Adopt(p.ID, p.Rootfs.Layers)
}

// releaseRootfs takes back what prepareRootfs acquired; the writable layer
// stays.
func (e *Engine) releaseRootfs(p *instance.Prepared) { e.storage.Release(p.ID) }

// prepareKernel finds the guest kernel of a VM that needs one.
func (e *Engine) prepareKernel(ctx context.Context, rec record, p *instance.Prepared) error {
	if p.Rootfs.Image != nil {
		return checkDisc(rec.Spec.VM.CDROM) // the kernel is its own
	}
	k, err := e.kernel(ctx, kernelName(rec.Spec.VM, rec.Arch, e.host.Arch))
	if err != nil {
		return err
	}
	p.Kernel = instance.Kernel{Name: k.Name, Arch: k.Arch, Release: k.Release, Vmlinux: k.Vmlinux, Modules: k.Modules, Config: k.Config}
	return nil
}
