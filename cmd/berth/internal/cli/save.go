package cli

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/cmd/berth/internal/terminal"
)

// newSaveCommand is 'berth save', docker's name for 'berth image export'.
func newSaveCommand(g *global) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "save [OPTIONS] IMAGE [IMAGE...]",
		Short:   "Write images as one archive",
		Long:    exits("Write images as one OCI archive, which docker and podman can load too, to standard\noutput or to a file. Layers that they share are in it once."),
		Example: "  berth save -o images.tar debian:12 web\n  berth save web | ssh other berth load",
		Args:    args(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runSave(cmd.Context(), g, output, args)
		},
		ValidArgsFunction: completeImages(g),
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "write to a file")
	return cmd
}

func runSave(ctx context.Context, g *global, output string, refs []string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	return toOutput(g, output, func(w io.Writer) error { return c.ExportImages(ctx, refs, w) })
}

// toOutput writes to a file, or to standard output where none is named.
func toOutput(g *global, output string, write func(io.Writer) error) error {
	if output != "" {
		return writeFile(output, write)
	}
	if terminal.Is(g.Out) {
		return usage(errors.New("standard output is a terminal; name a file with -o, or pipe it on"))
	}
	return write(g.Out)
}

func newImageExportCommand(g *global) *cobra.Command {
	var output, format string
	cmd := &cobra.Command{
		Use:     "export [OPTIONS] IMAGE [IMAGE...]",
		Aliases: []string{"save"},
		Short:   "Write images as one archive",
		Long:    exits("Write images as one OCI archive, which docker can load too, to standard output\nor to a file. With --format it is the disk of one disk image."),
		Example: "  berth image export debian:12 | docker load\n  berth image export --format qcow2 -o debian.qcow2 disk/debian:12",
		Args:    args(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runImageExport(cmd.Context(), g, output, format, args)
		},
		ValidArgsFunction: completeImages(g),
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "write to a file")
	cmd.Flags().StringVar(&format, "format", "", "write the disk of a disk image: raw, qcow2, vmdk, vhdx, vdi, ova")
	return cmd
}

func runImageExport(ctx context.Context, g *global, output, format string, refs []string) error {
	if err := oneOf("--format", format, &format, diskFormats...); err != nil {
		return usage(err)
	}
	if format == "" {
		return runSave(ctx, g, output, refs)
	}
	if len(refs) > 1 {
		return usage(errors.New("--format: it is one disk; name one image"))
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	return toOutput(g, output, func(w io.Writer) error { return c.ExportDisk(ctx, refs[0], format, w) })
}
