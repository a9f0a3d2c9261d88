package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/agent"
	"github.com/berthcloud/berth/internal/disk"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/undo"
)

// What an image is converted to.
const (
	ToDisk   = "disk"
	ToRootfs = "rootfs"
)

// ConvertOptions say what to make of an image.
type ConvertOptions struct {
	Ref  string
	Name string // of what is made
	To   string // ToDisk, ToRootfs; "" for what the image is not
	Size int64  // ToDisk: bytes; 0 for what it takes
	// Init says what a disk starts: api.InitSystem the image's init, api.InitNone its
	// command, "" what the image is made for.
	Init api.InitMode
}

// StartConvert begins to make the disk of a machine of a root filesystem, or the other
// way round. The image stays.
func (e *Engine) StartConvert(ctx context.Context, o ConvertOptions) (api.Operation, error) {
	fail := func(kind api.ErrorKind, err error) (api.Operation, error) {
		return api.Operation{}, api.E("convert", kind, o.Ref, err)
	}
	if err := image.CheckTag(o.Name); err != nil {
		return fail("", err)
	}
	img, err := e.images.Resolve(ctx, o.Ref)
	if err != nil {
		return fail("", err)
	}
	is, other := ToRootfs, ToDisk
	if img.Disk != nil {
		is, other = ToDisk, ToRootfs
	}
	switch o.To = first(o.To, other); {
	case o.To == is:
		return fail(api.Invalid, fmt.Errorf("it is a %s already; give it a further name with 'berth image tag'", is))
	case o.To != other:
		return fail(api.Invalid, fmt.Errorf("nothing is converted to %q: choose disk or rootfs", o.To))
	case o.To == ToRootfs && (o.Size != 0 || o.Init != ""):
		return fail(api.Invalid, errors.New("a root filesystem has no size of its own and starts nothing by itself: leave --size and --init out"))
	}
	return e.begin("convert", o.Ref, func(ctx context.Context, report func(api.Progress)) (made string, err error) {
		if o.To == ToDisk {
			made, err = e.convertToDisk(ctx, o, img, report)
		} else {
			made, err = e.convertToRootfs(ctx, o, img, report)
		}
		return made, api.E("convert", "", o.Ref, err)
	})
}

// convertToDisk makes a disk image of an image of layers.
func (e *Engine) convertToDisk(ctx context.Context, o ConvertOptions, img image.Image, report func(api.Progress)) (string, error) {
	id := newID()
	e.images.Hold(id, img.Digest)
	defer e.images.Release(id)
	views := 0
	made, err := e.images.ToDisk(ctx, image.TreeDisk{
		Base: img, Name: o.Name, Size: o.Size, Init: o.Init, Progress: report,
		Process: func() (agent.Process, int, error) {
			p, err := process(api.Spec{Hostname: "localhost", TTY: true}, img.Config, id)
			return agent.Process{Args: p.Args, Env: p.Env, User: p.User, Dir: p.WorkingDir}, p.StopSignal, err
		},
		Kernel: func(ctx context.Context) (image.Kernel, error) {
			return e.kernel(ctx, kernelName(api.VMSpec{}, img.Arch, e.host.Arch))
		},
		View: func(ctx context.Context, layers []image.Layer) (*os.File, func(), error) {
			views++
			return e.storage.View(ctx, fmt.Sprintf("convert-%s-%d", id, views), layersOf(image.Image{Layers: layers}))
		},
	})
	return made, errors.Join(err, e.storage.Sweep()) // the disk's own layer is gone, and takes space while it is mounted
}

// kernel returns a guest kernel, or says how to get it.
func (e *Engine) kernel(ctx context.Context, name string) (image.Kernel, error) {
	k, err := e.images.Kernel(ctx, name)
	if api.IsKind(err, api.NotFound) {
		err = errNoKernel(name, err)
	}
	return k, err
}

// convertToRootfs makes an image of layers of a disk image.
func (e *Engine) convertToRootfs(ctx context.Context, o ConvertOptions, img image.Image, report func(api.Progress)) (name string, err error) {
	driver, err := e.driver(api.VM)
	if err != nil {
		return "", err
	}
	reader, ok := driver.(instance.DiskReader)
	if !ok {
		return "", api.E("", api.Unsupported, "", errors.New("this host has no machines that could read the disk"))
	}
	part := instance.Mount{Type: api.MountDisk, Source: img.Disk.Path, ReadOnly: true, Name: "image", Size: img.Disk.Size}
	err = e.withReader(ctx, img, part, func(p *instance.Prepared, h instance.Handle) error {
		var init string
		write := func(w io.Writer) (err error) {
			init, err = reader.ReadDisk(ctx, p, h, part, w)
			return err
		}
		return pipe(write, func(tar io.Reader) (err error) {
			name, err = e.images.FromDisk(ctx, tar, image.DiskTree{Disk: img, Name: o.Name, Progress: report, Init: func() string { return init }})
			return err
		})
	})
	return name, err
}

// withReader runs a machine that reads a disk for as long as use needs it. It has a
// record, so that whatever ends the engine meanwhile, the next one finds the machine: it
// is one that is being removed from its beginning.
func (e *Engine) withReader(ctx context.Context, img image.Image, part instance.Mount, use func(*instance.Prepared, instance.Handle) error) (err error) {
	var u undo.Stack
	defer u.Run(ctx, &err) // all of it, when it has been of use
	id := newID()
	spec, err := e.complete(api.Spec{
		Name: "convert-" + id[:12], Kind: api.VM, Image: first(img.Name, img.Digest), AutoRemove: true, Network: api.NetworkSpec{Name: api.NetworkNone},
	}, id)
	if err != nil {
		return err
	}
	rec := record{Arch: e.host.Arch}
	rec.ID, rec.Name, rec.Created, rec.Spec, rec.Digest = id, spec.Name, time.Now().UTC(), spec, img.Digest
	rec.Revision, rec.Status.State = 1, api.Removing
	if rec.Users, err = e.allocateRange(api.VM); err != nil {
		return err
	}
	e.images.Hold(id, img.Digest)
	en := newEntry(rec)
	<-en.op
	if err := e.index(en); err != nil {
		return err
	}
	if err := e.insert(ctx, rec); err != nil {
		return errors.Join(err, e.forget(ctx, en))
	}
	u.Add(func(ctx context.Context) error {
		defer func() { en.op <- struct{}{} }()
		return e.remove(ctx, en, RemoveOptions{})
	})
	layer, done, err := e.readerLayer(ctx, rec)
	if err != nil {
		return err
	}
	u.Add(func(context.Context) error { done(); return nil })
	p, err := e.outline(rec, img)
	if err != nil {
		return err
	}
	p.Rootfs, p.Mounts = instance.Rootfs{Layers: []string{layer.Path}}, []instance.Mount{part}
	return e.runIdle(ctx, rec, p, use)
}

// readerLayer makes the root filesystem of a machine that reads disks: drivers of the
// guest's kernel for filesystems that other machines do without.
func (e *Engine) readerLayer(ctx context.Context, rec record) (image.Layer, func(), error) {
	fail := func(err error) (image.Layer, func(), error) { return image.Layer{}, nil, err }
	k, err := e.kernel(ctx, kernelName(rec.Spec.VM, rec.Arch, e.host.Arch))
	if err != nil {
		return fail(err)
	}
	modules, err := disk.OpenModules(os.DirFS(k.Modules))
	if err != nil {
		return fail(err)
	}
	files, err := driverFiles(modules)
	if err != nil {
		return fail(err)
	}
	return e.images.Scratch(ctx, files)
}

// driverFiles is an archive of the modules by which a kernel reads filesystems, where it
// has them.
func driverFiles(modules *disk.Modules) ([]byte, error) {
	var names []string
	for _, name := range []string{"crc32c_generic", "xfs", "btrfs"} {
		if modules.Has(name) {
			names = append(names, name)
		}
	}
	order, err := modules.Order(names...)
	if err != nil {
		return nil, err
	}
	var archive, list bytes.Buffer
	w := tar.NewWriter(&archive)
	add := func(name string, content []byte) error {
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(agent.DriversDir, "/") + "/" + name, Mode: 0o644, Size: int64(len(content))})
		if err == nil {
			_, err = w.Write(content)
		}
		return err
	}
	for _, m := range order {
		fmt.Fprintln(&list, m.Name)
		err = errors.Join(err, add(m.Name+".ko", m.Data))
	}
	err = errors.Join(err, add(agent.DriversOrder, list.Bytes()), w.Close())
	return archive.Bytes(), err
}
