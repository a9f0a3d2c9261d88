package rest

import (
	"context"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/engine"
)

// operationInput names an operation.
type operationInput struct {
	ID string `path:"id" maxLength:"128"`
}

// OperationRequest starts an operation; exactly one field is set.
type OperationRequest struct {
	Pull      *PullRequest      `json:"pull,omitempty" doc:"fetch an image from its registry"`
	Push      *PushRequest      `json:"push,omitempty" doc:"put an image into the registry in its name"`
	Bootstrap *BootstrapRequest `json:"bootstrap,omitempty" doc:"make an image from a distribution's packages"`
	Kernel    *KernelRequest    `json:"kernel,omitempty" doc:"make a guest kernel from the distribution's packages"`
	Base      *BaseRequest      `json:"base,omitempty" doc:"make the tiny image base"`
	Import    *ImportRequest    `json:"import,omitempty" doc:"make images of an archive on the daemon's host"`
	Commit    *CommitRequest    `json:"commit,omitempty" doc:"make an image of an instance"`
	Convert   *ConvertRequest   `json:"convert,omitempty" doc:"make a machine's disk of a root filesystem, or the other way round"`
	Check     *CheckRequest     `json:"check,omitempty" doc:"read all images and tell what is broken"`
}

// PullRequest fetches an image from its registry.
type PullRequest struct {
	Image    string `json:"image" minLength:"1" maxLength:"1024"`
	Platform string `json:"platform,omitempty" maxLength:"64" doc:"as in linux/arm64; default the host's"`
	Insecure bool   `json:"insecure,omitempty" doc:"accept plain HTTP and certificates nobody vouches for"`
	Lazy     bool   `json:"lazy,omitempty" doc:"be done once the image can be used, and have the rest arrive behind, where layers are eStargz and the registry sends parts of them"`
}

// PushRequest puts an image into the registry in its name.
type PushRequest struct {
	Image             string `json:"image" minLength:"1" maxLength:"1024"`
	Insecure          bool   `json:"insecure,omitempty" doc:"accept plain HTTP and certificates nobody vouches for"`
	CompressionFormat string `json:"compression_format,omitempty" maxLength:"16" doc:"gzip or zstd: compress all layers with it; default: as they are, and with gzip those made here that are not compressed"`
	CompressionLevel  int    `json:"compression_level,omitempty" doc:"of gzip 1 to 9, of zstd 1 to 22; default: the format's usual one"`
}

// BootstrapRequest makes an image from a distribution's packages.
type BootstrapRequest struct {
	Name string `json:"name" minLength:"1" maxLength:"256" doc:"as in debian:12"`
	Disk bool   `json:"disk,omitempty" doc:"one that holds a VM's disk"`

	Tag     string   `json:"tag,omitempty" maxLength:"256" doc:"what to call it; default the name"`
	Include []string `json:"include,omitempty" maxItems:"1000" doc:"packages beyond those of the name"`
}

// KernelRequest makes a guest kernel.
type KernelRequest struct {
	Flavor   string `json:"flavor" enum:"cloud,standard"`
	Platform string `json:"platform,omitempty" maxLength:"64" doc:"as in linux/arm64; default the host's"`
}

// BaseRequest makes the tiny image base.
type BaseRequest struct {
	Platform string `json:"platform,omitempty" maxLength:"64" doc:"as in linux/arm64; default the host's"`
}

// ImportRequest makes images of an archive on the daemon's host.
type ImportRequest struct {
	Name string `json:"name,omitempty" maxLength:"1024"`
	Path string `json:"path" minLength:"1" maxLength:"4096" doc:"of an archive or an OCI layout"`
}

// CommitRequest makes an image of what an instance has changed in its root filesystem.
type CommitRequest struct {
	Instance string `json:"instance" minLength:"1" maxLength:"128"`
	Image    string `json:"image" minLength:"1" maxLength:"1024" doc:"what to call it"`
	Author   string `json:"author,omitempty" maxLength:"1024"`
	Message  string `json:"message,omitempty" maxLength:"4096"`
}

// ConvertRequest makes a machine's disk of a root filesystem, or the other way round.
type ConvertRequest struct {
	Image string `json:"image" minLength:"1" maxLength:"1024"`
	Name  string `json:"name" minLength:"1" maxLength:"1024" doc:"what to call what is made"`
	To    string `json:"to,omitempty" enum:"disk,rootfs" doc:"default what the image is not"`
	Size  int64  `json:"size,omitempty" minimum:"0" doc:"of a disk, in bytes; default what it takes"`

	Init api.InitMode `json:"init,omitempty" enum:"none,system" doc:"what a disk starts: the image's command, or its init; default what the image is made for"`
}

// CheckRequest reads all images and tells what is broken.
type CheckRequest struct {
	Repair   bool `json:"repair,omitempty" doc:"fetch or make anew what is broken"`
	Insecure bool `json:"insecure,omitempty" doc:"fetch it over plain HTTP and with certificates nobody vouches for, too"`
}

type startInput struct{ Body OperationRequest }

// operationRoutes registers what concerns operations.
func (s *Server) operationRoutes(a huma.API) {
	const tag, base, one = "operations", "/v1/operations", "/v1/operations/{id}"
	handle(a, route{id: "start-operation", method: "POST", path: base, tag: tag, summary: "Start an operation", status: http.StatusAccepted,
		description: "Exactly one field of the body says what to do."}, s.startOperation)
	handle(a, route{id: "list-operations", method: "GET", path: base, tag: tag, summary: "List operations that run or ended lately"},
		func(ctx context.Context, _ *struct{}) ([]api.Operation, error) {
			return orEmpty(s.Operations.Operations(ctx))
		})
	handle(a, route{id: "get-operation", method: "GET", path: one, tag: tag, summary: "Get an operation"},
		func(ctx context.Context, in *operationInput) (api.Operation, error) {
			return s.Operations.Operation(ctx, in.ID)
		})
	handle(a, route{id: "cancel-operation", method: "DELETE", path: one, tag: tag, summary: "Ask an operation to end early"},
		func(ctx context.Context, in *operationInput) (struct{}, error) {
			return none(s.Operations.CancelOperation(ctx, in.ID))
		})
	handleRaw(a, route{id: "watch-operation", method: "GET", path: one + "/watch", tag: tag, summary: "The states of an operation until it is done", stream: linesType, schema: api.Operation{}},
		func(in *operationInput) *raw {
			return lines(s, true, func(ctx context.Context, f func(api.Operation) error) error {
				return s.Operations.WatchOperation(ctx, in.ID, f)
			})
		})
}

// startOperation starts what the one field of the body says.
func (s *Server) startOperation(ctx context.Context, in *startInput) (api.Operation, error) {
	b, set := in.Body, 0
	for _, given := range []bool{b.Pull != nil, b.Push != nil, b.Bootstrap != nil, b.Kernel != nil, b.Base != nil, b.Import != nil, b.Commit != nil, b.Convert != nil, b.Check != nil} {
		if given {
			set++
		}
	}
	switch {
	case set != 1:
		return api.Operation{}, api.E("", api.Invalid, "", errors.New("malformed request: set exactly one of pull, push, bootstrap, kernel, base, import, commit, convert, check"))
	case b.Pull != nil:
		return s.Work.StartPull(ctx, engine.PullOptions{Ref: b.Pull.Image, Platform: b.Pull.Platform, Insecure: b.Pull.Insecure, Lazy: b.Pull.Lazy})
	case b.Push != nil:
		return s.Work.StartPush(ctx, engine.PushOptions{
			Ref: b.Push.Image, Insecure: b.Push.Insecure, CompressionFormat: b.Push.CompressionFormat, CompressionLevel: b.Push.CompressionLevel,
		})
	case b.Bootstrap != nil:
		return s.Work.StartBootstrap(ctx, engine.BootstrapOptions(*b.Bootstrap))
	case b.Kernel != nil:
		return s.Work.StartKernel(ctx, b.Kernel.Flavor, b.Kernel.Platform)
	case b.Base != nil:
		return s.Work.StartBase(ctx, b.Base.Platform)
	case b.Check != nil:
		return s.Work.StartCheck(ctx, engine.CheckOptions(*b.Check))
	case b.Convert != nil:
		return s.Work.StartConvert(ctx, engine.ConvertOptions{Ref: b.Convert.Image, Name: b.Convert.Name, To: b.Convert.To, Size: b.Convert.Size, Init: b.Convert.Init})
	case b.Commit != nil:
		return s.Work.StartCommit(ctx, engine.CommitOptions{Ref: b.Commit.Instance, Image: b.Commit.Image, Author: b.Commit.Author, Message: b.Commit.Message})
	}
	return s.Work.StartImport(ctx, engine.ImportOptions{Name: b.Import.Name, Path: b.Import.Path})
}
