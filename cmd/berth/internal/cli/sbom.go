package cli

import (
	"bytes"
	"context"
	"encoding/json"

	"github.com/spf13/cobra"
)

func newImageSBOMCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "sbom IMAGE",
		Short: "Print what an image is made of",
		Long: exits(`Print the bill of materials (SBOM) that was made with an image and is kept with
it, as JSON: SPDX or CycloneDX. berth build --sbom makes one.`),
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runImageSBOM(cmd.Context(), g, args[0])
		},
		ValidArgsFunction: completeImages(g),
	}
}

func runImageSBOM(ctx context.Context, g *global, name string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	sbom, err := c.SBOM(ctx, name)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, sbom.Document, "", "  "); err != nil {
		return err
	}
	b.WriteByte('\n')
	_, err = b.WriteTo(g.Out)
	return err
}
