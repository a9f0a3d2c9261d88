package engine

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/disk"
	"github.com/berthcloud/berth/internal/image"
)

// BootstrapOptions say what to make of a distribution's packages.
type BootstrapOptions struct {
	Name    string   // what is made, as in debian:12
	Disk    bool     // as the disk of a VM
	Tag     string   // what to call it; "" for Name
	Include []string // packages beyond those of Name
}

// StartBootstrap begins to make a standard image from the distribution's packages.
func (e *Engine) StartBootstrap(_ context.Context, o BootstrapOptions) (api.Operation, error) {
	return e.begin("bootstrap", o.Name, func(ctx context.Context, report func(api.Progress)) (string, error) {
		what := image.BootstrapOptions{Name: o.Name, Tag: o.Tag, Include: o.Include, Progress: report}
		if o.Disk {
			return e.images.BootstrapDisk(ctx, what)
		}
		return e.images.Bootstrap(ctx, what)
	})
}

// StartKernel begins to make a guest kernel of the given flavor, cloud or
// standard, from the distribution's packages, for a platform ("" for the host's).
func (e *Engine) StartKernel(_ context.Context, flavor, platform string) (api.Operation, error) {
	return e.begin("kernel", flavor, func(ctx context.Context, report func(api.Progress)) (string, error) {
		return e.images.BootstrapKernel(ctx, flavor, image.Arch(platform), report)
	})
}

// StartBase begins to make the tiny image named base, for a platform ("" for the
// host's).
func (e *Engine) StartBase(_ context.Context, platform string) (api.Operation, error) {
	return e.begin("bootstrap", "base", func(ctx context.Context, report func(api.Progress)) (string, error) {
		return e.images.Base(ctx, image.Arch(platform), report)
	})
}

// ImportOptions say what to import, and as what.
type ImportOptions struct {
	Name string       // "" where the archive names itself
	Path string       // a file or an OCI layout directory of the daemon's host, or
	Body io.Reader    // the archive itself
	Disk *DiskOptions // the Body is a VM's disk and no archive
}

// DiskOptions say what a disk is and how a machine starts from it.
type DiskOptions struct {
	Format   string       // raw, qcow2, vmdk, vhdx, vdi or ova
	Firmware api.Firmware // "" for the architecture's older one
	Platform string       // "" for the host's
	Agent    bool         // berth-agent is a service of the guest's
}

// StartImport begins to make images of an archive: a plain tar, a
// docker-archive, an OCI layout or archive. With a Body, the caller keeps its
// request open until the operation is done.
func (e *Engine) StartImport(_ context.Context, o ImportOptions) (api.Operation, error) {
	return e.begin("import", first(o.Name, o.Path), func(ctx context.Context, report func(api.Progress)) (string, error) {
		if d := o.Disk; d != nil {
			return e.images.ImportDisk(ctx, o.Body, image.DiskOptions{
				Name: o.Name, Format: disk.Format(d.Format), Firmware: d.Firmware, Arch: archOf(d.Platform), Agent: d.Agent, Progress: report,
			})
		}
		opt := image.ImportOptions{Name: o.Name, Progress: report}
		var names []string
		var err error
		if o.Body != nil {
			names, err = e.images.Import(ctx, o.Body, opt)
		} else {
			names, err = e.images.ImportPath(ctx, o.Path, opt)
		}
		return strings.Join(names, " "), err
	})
}

// archOf is the architecture of a platform, "" for the host's.
func archOf(platform string) string {
	if platform == "" {
		return ""
	}
	return image.Arch(platform)
}

// Images lists the images of the store.
func (e *Engine) Images(ctx context.Context) ([]api.Image, error) { return e.images.List(ctx) }

// Image returns one image with its layers, its config and its users.
func (e *Engine) Image(ctx context.Context, name string) (api.Image, error) {
	img, err := e.images.Inspect(ctx, name)
	for i, id := range img.Users {
		if en, err := e.find(id); err == nil {
			img.Users[i] = en.name()
		}
	}
	slices.Sort(img.Users)
	return img, err
}

// RemoveImage takes a name from an image, and its content with the last name
// and the last instance made from it.
func (e *Engine) RemoveImage(ctx context.Context, name string, force bool) error {
	removed, err := e.images.Remove(ctx, name)
	if api.IsKind(err, api.InUse) {
		// The store knows holders by id; a user knows instances by name.
		if img, e2 := e.Image(ctx, name); e2 == nil {
			return api.E("remove image", api.InUse, name, errors.New("in use by "+strings.Join(img.Users, ", ")+"; remove that first, or give the image another name"))
		}
	}
	if err != nil {
		return err
	}
	e.announce("image", "remove", removed)
	return e.storage.Sweep() // a layer that is mounted takes its disk space still
}

// TagImage gives an image a further name.
func (e *Engine) TagImage(ctx context.Context, name, newName string) error {
	err := e.images.Tag(ctx, name, newName)
	if err == nil {
		e.announce("image", "tag", newName)
	}
	return err
}

// SBOM returns the bill of materials that is kept with an image.
func (e *Engine) SBOM(ctx context.Context, name string) (api.SBOM, error) {
	return e.images.SBOM(ctx, name)
}

// ExportImages writes images as one OCI archive that docker can load too, or with a format
// the disk of a disk image.
func (e *Engine) ExportImages(ctx context.Context, names []string, format string, w io.Writer) error {
	if format == "" {
		return e.images.Export(ctx, w, names...)
	}
	if len(names) > 1 {
		return api.E("export image", api.Invalid, "", errors.New("with a format it is one disk; name one image"))
	}
	return e.images.ExportDisk(ctx, names[0], disk.Format(format), w)
}
