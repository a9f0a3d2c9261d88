package build

import (
	"context"
	"encoding/json"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/berthcloud/berth/internal/image"
)

// The host service is what a builder asks of its daemon beside the store. Its messages
// are JSON: both ends are programs of one build.
const hostService = "berth.build.Host"

// stepRequest asks for what a step needs.
type stepRequest struct {
	ID      string `json:"id"`
	Network bool   `json:"network"`
}

// allowRequest asks whether an image may come from its registry.
type allowRequest struct {
	Name   string        `json:"name"`
	Digest digest.Digest `json:"digest"`
}

// nothing is an empty message.
type nothing struct{}

// registerHost serves the host service by s.
func registerHost(g *grpc.Server, s *Service) {
	g.RegisterService(&grpc.ServiceDesc{ServiceName: hostService, Methods: []grpc.MethodDesc{
		method("Begin", s.begin),
		method("End", func(ctx context.Context, id string) (nothing, error) { return nothing{}, s.end(ctx, id) }),
		method("Collect", func(ctx context.Context, _ nothing) (nothing, error) { return nothing{}, s.collect(ctx) }),
		method("Image", func(ctx context.Context, name string) (images.Image, error) {
			return s.backing.Images.Get(ctx, name)
		}),
		method("Images", func(ctx context.Context, filters []string) ([]images.Image, error) {
			return s.backing.Images.List(ctx, filters...)
		}),
		method("Name", s.name),
		method("Allow", func(ctx context.Context, r allowRequest) (nothing, error) {
			return nothing{}, s.Images.Allow(ctx, r.Name, r.Digest)
		}),
		method("Layer", func(ctx context.Context, l Layer) (Layer, error) {
			made, err := s.Images.LayerImage(ctx, l.Digest, l.DiffID)
			l.EROFS, l.Path, l.Size = made.EROFS, made.Path, made.Size
			return l, err
		}),
		method("Add", func(ctx context.Context, l Layer) (nothing, error) {
			return nothing{}, s.Images.AddLayer(ctx, image.Layer{DiffID: l.DiffID, EROFS: l.EROFS, Path: l.Path, Size: l.Size})
		}),
	}}, nil) // the methods know what they belong to
}

// The builder service is what a daemon asks of its builder beside builds.
const builderService = "berth.build.Builder"

// RegisterBuilder serves the builder service: prune removes what of the cache no build
// uses now.
func RegisterBuilder(g *grpc.Server, prune func(context.Context) error) {
	g.RegisterService(&grpc.ServiceDesc{ServiceName: builderService, Methods: []grpc.MethodDesc{
		method("Prune", func(ctx context.Context, _ nothing) (nothing, error) { return nothing{}, prune(ctx) }),
	}}, nil)
}

// method makes a method of a service of a function.
func method[In, Out any](name string, f func(context.Context, In) (Out, error)) grpc.MethodDesc {
	return grpc.MethodDesc{MethodName: name, Handler: func(_ any, ctx context.Context, read func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var message wrapperspb.BytesValue
		var in In
		if err := read(&message); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(message.Value, &in); err != nil {
			return nil, err
		}
		out, err := f(namespaces.WithNamespace(ctx, image.Namespace), in)
		if err != nil {
			return nil, errgrpc.ToGRPC(err)
		}
		text, err := json.Marshal(out)
		return wrapperspb.Bytes(text), err
	}}
}

// Daemon is the host service as a builder sees it. Errors are those of package errdefs.
type Daemon struct{ Conn *grpc.ClientConn }

// Begin reserves what a step needs until End. A step with an id has it once.
func (d Daemon) Begin(ctx context.Context, id string, network bool) (step Step, err error) {
	err = d.call(ctx, "Begin", stepRequest{ID: id, Network: network}, &step)
	return step, err
}

// End gives back what Begin reserved. It is no error if there is nothing.
func (d Daemon) End(ctx context.Context, id string) error { return d.call(ctx, "End", id, &nothing{}) }

// Collect removes garbage from the image store.
func (d Daemon) Collect(ctx context.Context) error {
	return d.call(ctx, "Collect", nothing{}, &nothing{})
}

// Image returns what a name leads to.
func (d Daemon) Image(ctx context.Context, name string) (img images.Image, err error) {
	err = d.call(ctx, "Image", name, &img)
	return img, err
}

// Images returns all names that pass one of containerd's filters.
func (d Daemon) Images(ctx context.Context, filters ...string) (list []images.Image, err error) {
	err = d.call(ctx, "Images", filters, &list)
	return list, err
}

// Name gives content a name, that of other content too, and makes it ready for use.
func (d Daemon) Name(ctx context.Context, img images.Image) (named images.Image, err error) {
	err = d.call(ctx, "Name", img, &named)
	return named, err
}

// Allow returns nil if an image may come from its registry, and else why not, in a line.
func (d Daemon) Allow(ctx context.Context, name string, target digest.Digest) error {
	return d.call(ctx, "Allow", allowRequest{name, target}, &nothing{})
}

// Layer names the EROFS image of a layer, which is made where there is none.
func (d Daemon) Layer(ctx context.Context, l Layer) (made Layer, err error) {
	err = d.call(ctx, "Layer", l, &made)
	return made, err
}

// Add gives the daemon the EROFS image of a layer, file and all. It is kept as ctx's lease
// has it until the layer itself is there.
func (d Daemon) Add(ctx context.Context, l Layer) error {
	return d.call(ctx, "Add", l, &nothing{})
}

func (d Daemon) call(ctx context.Context, name string, in, out any) error {
	return call(ctx, d.Conn, hostService, name, in, out)
}

// call calls a method of a service.
func call(ctx context.Context, conn *grpc.ClientConn, service, name string, in, out any) error {
	text, err := json.Marshal(in)
	if err != nil {
		return err
	}
	var reply wrapperspb.BytesValue
	if err := conn.Invoke(ctx, "/"+service+"/"+name, wrapperspb.Bytes(text), &reply); err != nil {
		return errgrpc.ToNative(err)
	}
	return json.Unmarshal(reply.Value, out)
}
