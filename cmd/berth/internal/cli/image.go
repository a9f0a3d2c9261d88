package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/client"
	"github.com/berthcloud/berth/cmd/berth/internal/files"
	"github.com/berthcloud/berth/cmd/berth/internal/parse"
	"github.com/berthcloud/berth/cmd/berth/internal/show"
	"github.com/berthcloud/berth/cmd/berth/internal/terminal"
)

// typeKernel is the type of an image that holds a guest kernel.
const typeKernel = "kernel"

func newImageCommand(g *global) *cobra.Command {
	return parent("image", "What instances are made from",
		newImageListCommand(g, "ls"), newInspectOf(g, "image", "IMAGE"), newPullCommand(g), newPushCommand(g), newImageImportCommand(g),
		newLoadCommand(g), newImageExportCommand(g), newImageHistoryCommand(g), newImageSBOMCommand(g), newImageBootstrapCommand(g), newImageConvertCommand(g), newImageTagCommand(g), newRemoveImageCommand(g, "rm"),
		newImagePruneCommand(g), newImageCheckCommand(g))
}

// newImagesCommand is 'berth images', docker's name for 'berth image ls'.
func newImagesCommand(g *global) *cobra.Command { return newImageListCommand(g, "images") }

// imageListOptions are the flags of image ls.
type imageListOptions struct {
	all, quiet, digests bool
	format              string
}

func newImageListCommand(g *global, name string) *cobra.Command {
	var o imageListOptions
	cmd := &cobra.Command{
		Use:   name + " [OPTIONS]",
		Short: "List images",
		Long:  exits("List images. Guest kernels are images too: -a or 'berth kernel ls' show them. So are\nplatforms and signatures of images that were pushed here."),
		Args:  args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runImageList(cmd.Context(), g, o, func(i api.Image) bool { return o.all || i.Type != typeKernel && !i.Part })
		},
	}
	cmd.Flags().BoolVarP(&o.all, "all", "a", false, "guest kernels, platforms and signatures too")
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "only names")
	cmd.Flags().BoolVar(&o.digests, "digests", false, "show digests in full")
	addFormat(cmd, &o.format)
	return cmd
}

func runImageList(ctx context.Context, g *global, o imageListOptions, wanted func(api.Image) bool) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	list, err := c.Images(ctx)
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(i api.Image) bool { return !wanted(i) })
	if o.quiet {
		o.format = "{{.Name}}"
	}
	return show.List(g.Out, o.format, list, imageColumns(g, o.digests))
}

// imageColumns are the columns of image ls.
func imageColumns(g *global, full bool) []show.Column[api.Image] {
	type image = api.Image
	now := g.now()
	return []show.Column[image]{
		{Key: "Name", Title: "NAME", Value: func(i image) string { return i.Name }},
		{Key: "Digest", Title: "DIGEST", Value: func(i image) string {
			if full || len(i.Digest) < 19 {
				return i.Digest
			}
			return i.Digest[:19] // sha256: and 12 digits
		}},
		{Key: "Platform", Title: "PLATFORM", Value: func(i image) string { return i.Platform }},
		{Key: "CreatedSince", Title: "CREATED", Value: func(i image) string { return show.Ago(i.Created, now) }},
		{Key: "CreatedAt", Title: "CREATED AT", Hidden: true, Value: func(i image) string { return show.Time(i.Created) }},
		{Key: "Type", Title: "TYPE", Hidden: true, Value: func(i image) string { return i.Type }},
		{Key: "Size", Title: "SIZE", Value: func(i image) string { return show.Bytes(i.Size) }},
	}
}

func newRemoveImageCommand(g *global, name string) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   name + " [OPTIONS] IMAGE [IMAGE...]",
		Short: "Remove images",
		Long:  exits("Remove names of images, and with the last name of an image its content. An image\nthat an instance was made from stays."),
		Args:  args(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRemoveImage(cmd.Context(), g, force, args)
		},
		ValidArgsFunction: completeImages(g),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "a missing image is no error")
	return cmd
}

func runRemoveImage(ctx context.Context, g *global, force bool, refs []string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	return each(ctx, g, refs, func(ref string) error {
		err := c.RemoveImage(ctx, ref, force)
		if force && api.IsKind(err, api.NotFound) {
			g.warn(err.Error())
			return nil
		}
		return err
	})
}

func newImageTagCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "tag IMAGE NAME",
		Short: "Give an image a further name",
		Long:  exits("Give an image a further name. A name that another image has moves to this one."),
		Args:  args(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runImageTag(cmd.Context(), g, args[0], args[1])
		},
		ValidArgsFunction: completeImages(g),
	}
}

func runImageTag(ctx context.Context, g *global, ref, name string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	return c.TagImage(ctx, ref, name)
}

// imageImportOptions are the flags of image import.
type imageImportOptions struct {
	name                       string
	format, firmware, platform string
	agent                      bool
	quiet                      bool
}

func newImageImportCommand(g *global) *cobra.Command {
	var o imageImportOptions
	cmd := &cobra.Command{
		Use:   "import [OPTIONS] FILE|DIRECTORY|- [NAME]",
		Short: "Make images of an archive",
		Long: exits(`Make images of a docker archive, an OCI archive, the directory of an OCI layout,
or a plain tar archive of a root filesystem, compressed or not; '-' is standard
input. A plain archive needs a NAME. Prints the names of what it made.

With --format, or where FILE ends in .qcow2, .raw, .vmdk, .vhdx, .vdi or .ova,
FILE is the disk of a virtual machine, and needs a NAME. The format is never
found out from what FILE holds.`),
		Example: "  berth image import debian.tar debian:custom\n  docker save web | berth image import -\n  berth image import --format qcow2 --firmware uefi cloud.img disk/cloud",
		Args:    args(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				o.name = args[1]
			}
			return runImageImport(cmd.Context(), g, o, args[0])
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.quiet, "quiet", "q", false, "do not show progress")
	f.StringVar(&o.format, "format", "", "format of a VM's disk: raw, qcow2, vmdk, vhdx, vdi, ova (default: by FILE's ending)")
	f.StringVar(&o.firmware, "firmware", "", "by which a disk starts: bios, uefi (default bios)")
	f.StringVar(&o.platform, "platform", "", "platform of a disk, as in linux/arm64 (default: the host's)")
	f.BoolVar(&o.agent, "agent", false, "the disk has berth-agent as a service")
	return cmd
}

func runImageImport(ctx context.Context, g *global, o imageImportOptions, source string) error {
	disk, err := o.disk(source)
	if err != nil {
		return usage(err)
	}
	archive, err := openArchive(g, source)
	if err != nil {
		return err
	}
	defer archive.Close()
	c, err := g.client()
	if err != nil {
		return err
	}
	result, err := watch(g, o.quiet, func(f func(api.Operation) error) (api.Operation, error) {
		if disk != nil {
			return c.ImportDisk(ctx, o.name, *disk, archive, f)
		}
		return c.ImportImage(ctx, o.name, archive, f)
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(g.Out, result)
	return err
}

// diskFormats are the formats of a VM's disk; ova is an appliance of one disk.
var diskFormats = []string{"raw", "qcow2", "vmdk", "vhdx", "vdi", "ova"}

// disk returns what the flags and the name of a source say of a disk; nil where it
// is an archive.
func (o *imageImportOptions) disk(source string) (*client.Disk, error) {
	format := o.format
	if ending := strings.TrimPrefix(filepath.Ext(source), "."); format == "" && slices.Contains(diskFormats, ending) {
		format = ending
	}
	if format == "" {
		if o.firmware != "" || o.platform != "" || o.agent {
			return nil, errors.New("--firmware, --platform and --agent are about a VM's disk: add --format, or leave them out")
		}
		return nil, nil
	}
	d := &client.Disk{Agent: o.agent}
	err := errors.Join(
		oneOf("--format", format, &d.Format, diskFormats...),
		oneOf("--firmware", o.firmware, &d.Firmware, api.FirmwareBIOS, api.FirmwareUEFI),
		value("--platform", o.platform, &d.Platform, parse.Platform),
	)
	if err == nil && o.name == "" {
		err = errors.New("a disk has no name of its own: write one after the file")
	}
	return d, err
}

// openArchive opens what image import reads; a directory as a tar stream.
func openArchive(g *global, source string) (io.ReadCloser, error) {
	if source == "-" {
		if terminal.Is(g.In) {
			return nil, usage(errors.New("standard input is a terminal; name a file, or pipe an archive in"))
		}
		return io.NopCloser(g.In), nil
	}
	st, err := os.Stat(source)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	if !st.IsDir() {
		return os.Open(source)
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(files.Pack(w, source, ".")) }()
	return r, nil
}

// writeFile writes a file whole or not at all: beside it first, then in its
// place.
func writeFile(name string, write func(io.Writer) error) (err error) {
	f, err := os.OpenFile(name+".part", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if err := errors.Join(write(f), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

func newImageBootstrapCommand(g *global) *cobra.Command {
	var quiet bool
	var platform string
	var r client.BootstrapRequest
	cmd := &cobra.Command{
		Use:   "bootstrap [OPTIONS] NAME",
		Short: "Make a standard image from a distribution's packages",
		Long: exits(`Make a standard image, as debian:12, with mmdebstrap from the mirror that the
host's apt uses. The names debian-init and debian-sysvinit make ones that boot as
machines (run --init=system), with systemd and sysvinit; base makes a tiny image
of a static busybox, which has an init too, and of it alone there is one for
another platform: base:arm64.

With --disk it is the disk of a virtual machine, as disk/debian:12 of debian:12:
with kernel, bootloader for BIOS and UEFI, and berth-agent as a service.
debian-standard:12 has Debian's standard kernel in place of the cloud one, for
--virt full.

With --include it has further packages of Debian, and a name of its own.`),
		Args: args(1, 1),
		Example: `  berth image bootstrap debian:12
  berth image bootstrap --include nginx -t web debian:12
  berth image bootstrap --disk --include cloud-init,openssh-server -t disk/cloud debian:12`,
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Name = args[0]
			return runImageBootstrap(cmd.Context(), g, quiet, r, platform)
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "do not show progress")
	cmd.Flags().BoolVar(&r.Disk, "disk", false, "make the disk of a virtual machine")
	cmd.Flags().StringSliceVar(&r.Include, "include", nil, "further packages, separated by commas")
	cmd.Flags().StringVarP(&r.Tag, "tag", "t", "", "what to call the image (default: NAME)")
	cmd.Flags().StringVar(&platform, "platform", "", "platform of base, as in linux/arm64 (default: the host's)")
	return cmd
}

func runImageBootstrap(ctx context.Context, g *global, quiet bool, b client.BootstrapRequest, platform string) error {
	if err := value("--platform", platform, &platform, parse.Platform); err != nil {
		return usage(err)
	}
	tiny := b.Name == "base" && !b.Disk
	switch {
	case platform != "" && !tiny:
		return usage(fmt.Errorf("--platform: %s is made for the host's platform only; get another with berth pull --platform, or leave the flag out", b.Name))
	case tiny && (b.Tag != "" || len(b.Include) > 0):
		return usage(errors.New("--include and --tag: base has no packages; name Debian, as in debian:12, or leave them out"))
	case len(b.Include) > 0 && b.Tag == "":
		return usage(fmt.Errorf("--include: %s is the image without further packages; name another with --tag", b.Name))
	}
	r := client.OperationRequest{Bootstrap: &b}
	if tiny {
		r = client.OperationRequest{Base: &client.BaseRequest{Platform: platform}}
	}
	result, err := operate(ctx, g, quiet, r)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(g.Out, result)
	return err
}

func newImagePruneCommand(g *global) *cobra.Command {
	o := pruneOptions{PruneOptions: client.PruneOptions{ImagesOnly: true}}
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove images without a tag, or all that no instance uses",
		Long: exits(`Remove images without a tag that no instance uses, those too that others have pushed
to this host's registry; signatures of images stay with them. With -a remove all
images that no instance uses, but guest kernels, and tags that others have pushed.
Asks first unless -f is given.

Filters: until=24h, until=2026-01-31T12:00:00Z (created before that), label=KEY,
label=KEY=VALUE, label!=KEY.`),
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			what := "all images without a tag that no instance uses"
			if o.Images {
				what = "all images that no instance uses"
			}
			return prune(cmd.Context(), g, what, o)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Images, "all", "a", false, "all images that no instance uses")
	f.StringArrayVar(&o.filters, "filter", nil, "only what matches KEY=VALUE")
	f.BoolVarP(&o.force, "force", "f", false, "do not ask")
	addFormat(cmd, &o.format)
	return cmd
}
