package rest

import (
	"context"
	"io"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/engine"
)

// ImageInput names an image.
type ImageInput struct {
	Ref string `path:"ref" maxLength:"1024" doc:"name or digest, percent-encoded"`
}

type removeImageInput struct {
	ImageInput
	Force bool `query:"force"`
}

type tagInput struct {
	ImageInput
	Name string `query:"name" required:"true" minLength:"1" maxLength:"1024"`
}

type importInput struct {
	Name     string `query:"name" maxLength:"1024" doc:"default: the names that the archive holds"`
	Format   string `query:"format" enum:"raw,qcow2,vmdk,vhdx,vdi,ova" doc:"the body is no archive of images but a VM's disk in this format, or an appliance of one disk"`
	Firmware string `query:"firmware" enum:"bios,uefi" doc:"of a disk: by which it starts; default: bios, and of arm64 uefi"`
	Platform string `query:"platform" maxLength:"64" doc:"of a disk, as in linux/arm64; default: the host's"`
	Agent    bool   `query:"agent" doc:"of a disk: berth-agent is a service of the guest's"`
}

// options are what the engine is to import.
func (in *importInput) options(body io.Reader) engine.ImportOptions {
	o := engine.ImportOptions{Name: in.Name, Body: body}
	if in.Format != "" {
		o.Disk = &engine.DiskOptions{Format: in.Format, Firmware: api.Firmware(in.Firmware), Platform: in.Platform, Agent: in.Agent}
	}
	return o
}

type exportInput struct {
	ImageInput
	With   []string `query:"with,explode" maxItems:"1000" doc:"further images of the same archive"`
	Format string   `query:"format" enum:"raw,qcow2,vmdk,vhdx,vdi,ova" doc:"the disk of a disk image in this format, or as an appliance, in place of an archive"`
}

// imageRoutes registers what concerns images.
func (s *Server) imageRoutes(a huma.API) {
	const tag, base, one = "images", "/v1/images", "/v1/images/{ref}"
	handle(a, route{id: "list-images", method: "GET", path: base, tag: tag, summary: "List images, by name"},
		func(ctx context.Context, _ *struct{}) ([]api.Image, error) { return orEmpty(s.Images.Images(ctx)) })
	handle(a, route{id: "get-image", method: "GET", path: one, tag: tag, summary: "Get an image with its layers, configuration and users"},
		func(ctx context.Context, in *ImageInput) (api.Image, error) { return s.Images.Image(ctx, in.Ref) })
	handle(a, route{id: "remove-image", method: "DELETE", path: one, tag: tag, summary: "Remove a name of an image"},
		func(ctx context.Context, in *removeImageInput) (struct{}, error) {
			return none(s.Images.RemoveImage(ctx, in.Ref, in.Force))
		})
	handle(a, route{id: "tag-image", method: "POST", path: one + "/tag", tag: tag, summary: "Give an image a further name"},
		func(ctx context.Context, in *tagInput) (struct{}, error) {
			return none(s.Images.TagImage(ctx, in.Ref, in.Name))
		})
	handle(a, route{id: "get-image-sbom", method: "GET", path: one + "/sbom", tag: tag, summary: "Get the bill of materials that is kept with an image"},
		func(ctx context.Context, in *ImageInput) (api.SBOM, error) { return s.Images.SBOM(ctx, in.Ref) })
	handleRaw(a, route{id: "export-image", method: "GET", path: one + "/archive", tag: tag, summary: "Images as an OCI archive, or the disk of one", stream: tarType},
		func(in *exportInput) *raw {
			return tarball(func(ctx context.Context, w io.Writer) error {
				return s.Images.ExportImages(ctx, append([]string{in.Ref}, in.With...), in.Format, w)
			})
		})
	handleRaw(a, route{id: "import-image", method: "POST", path: "/v1/archives", tag: tag, summary: "Make images of an archive",
		description: "The body is a plain tar, a docker archive or an OCI archive, or with a format a VM's disk. The answer begins while it is read: the states of the operation, until it is done. A client that goes away cancels it.",
		stream:      linesType, schema: api.Operation{}, body: tarType},
		func(in *importInput) *raw { return answer(s.importImage(in)) })
}

// importImage makes images of the request's body, and answers meanwhile with
// the states of the operation.
func (s *Server) importImage(in *importInput) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		archive, err := body(r)
		if err == nil {
			err = http.NewResponseController(w).EnableFullDuplex()
		}
		if err != nil {
			fail(w, err)
			return
		}
		op, err := s.Work.StartImport(r.Context(), in.options(archive))
		if err != nil {
			fail(w, err)
			return
		}
		linesHandler(s, true, func(ctx context.Context, f func(api.Operation) error) error {
			err := s.Operations.WatchOperation(ctx, op.ID, f)
			if err == nil {
				return nil
			}
			// The body must not be read any more once this handler returns.
			ended := context.WithoutCancel(ctx)
			_ = s.Operations.CancelOperation(ended, op.ID)
			_ = s.Operations.WatchOperation(ended, op.ID, func(api.Operation) error { return nil })
			return err
		})(w, r)
	}
}
