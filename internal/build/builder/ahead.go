package builder

import (
	"context"
	"strings"
	"sync"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/cache"
	cacheconfig "github.com/moby/buildkit/cache/config"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/frontend"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/compression"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
)

// A layer is made while the steps above its own run, and not after the last of them:
// beside most steps there is a processor to spare. Which layers an image will have is
// known as soon as the frontend has read the Dockerfile; those of its other stages
// nobody may ever want.

// ahead makes the layers that exports are going to ask for. Its methods may be called
// concurrently.
type ahead struct {
	images *imageMaker
	ctx    context.Context // of the builder
	making sync.WaitGroup

	mu     sync.Mutex
	wanted map[digest.Digest]int // how many builds want the layer below an operation
}

// newAhead returns one whose work ends with ctx.
func newAhead(ctx context.Context, images *imageMaker) *ahead {
	return &ahead{images: images, ctx: ctx, wanted: map[digest.Digest]int{}}
}

// wait returns once that has ended.
func (a *ahead) wait(context.Context) error {
	a.making.Wait()
	return nil
}

// usual is how layers are compressed where nobody says how.
var usual = cacheconfig.RefConfig{Compression: compression.New(compression.Default)}

type wantsLayers struct{}

// note is a grpc.UnaryServerInterceptor. It notes of a build whether its layers can be
// made ahead: where all that asks for them takes the usual ones.
func (a *ahead) note(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	if r, ok := request.(*controlapi.SolveRequest); ok && takesUsual(r) {
		ctx = context.WithValue(ctx, wantsLayers{}, true)
	}
	return handle(ctx, request)
}

// takesUsual reports whether a build makes an image, and everything of it as usual.
func takesUsual(r *controlapi.SolveRequest) bool {
	image := false
	for _, e := range r.Exporters {
		switch e.Type {
		case client.ExporterImage, client.ExporterOCI, client.ExporterDocker:
			image = true
		}
		if compresses(e.Attrs) {
			return false
		}
	}
	for _, e := range r.GetCache().GetExports() {
		if compresses(e.Attrs) {
			return false
		}
	}
	return image
}

// compresses reports whether attributes say how layers are to be compressed.
func compresses(attrs map[string]string) bool {
	for name := range attrs {
		if strings.Contains(name, "compression") {
			return true
		}
	}
	return false
}

// aheadFrontend has the layers made of what its frontend wants built.
type aheadFrontend struct {
	frontend.Frontend
	ahead *ahead
}

// Solve implements frontend.Frontend.
func (f aheadFrontend) Solve(ctx context.Context, bridge frontend.FrontendLLBBridge, exec executor.Executor, opts map[string]string,
	inputs map[string]*pb.Definition, session string, sessions *session.Manager,
) (*frontend.Result, error) {
	result, err := f.Frontend.Solve(ctx, bridge, exec, opts, inputs, session, sessions)
	if err != nil || ctx.Value(wantsLayers{}) == nil {
		return result, err
	}
	return result, result.EachRef(func(ref solver.ResultProxy) error {
		f.ahead.want(ctx, uponSteps(ref.Definition()))
		return nil
	})
}

// uponSteps returns the operations on the way from a result down to its base whose own
// base is another operation's result, and no image.
func uponSteps(d *pb.Definition) (list []digest.Digest) {
	ops := map[digest.Digest]*pb.Op{}
	var at digest.Digest
	for _, text := range d.GetDef() {
		var op pb.Op
		if op.UnmarshalVT(text) != nil {
			return nil // whoever builds it says why
		}
		at = digest.FromBytes(text)
		ops[at] = &op
	}
	at = below(ops[at], 0) // the last says only which the result is
	for {
		op := ops[at]
		base := below(op, root(op))
		if ops[base] == nil || ops[base].GetSource() != nil {
			return list
		}
		list, at = append(list, at), base
	}
}

// root returns which input of an operation its result is based on; -1 for none.
func root(op *pb.Op) int {
	switch {
	case op.GetExec() != nil:
		for _, m := range op.GetExec().Mounts {
			if m.Dest == pb.RootMount {
				return int(m.Input)
			}
		}
	case op.GetFile() != nil && len(op.GetFile().Actions) > 0:
		return int(op.GetFile().Actions[0].Input)
	}
	return -1
}

// below returns the operation that an input comes from; "" for none.
func below(op *pb.Op, input int) digest.Digest {
	if input < 0 || input >= len(op.GetInputs()) {
		return ""
	}
	return digest.Digest(op.Inputs[input].Digest)
}

// want has the layers below operations made when these begin, until ctx ends.
func (a *ahead) want(ctx context.Context, ops []digest.Digest) {
	count := func(by int) {
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, op := range ops {
			if a.wanted[op] += by; a.wanted[op] == 0 {
				delete(a.wanted, op)
			}
		}
	}
	count(1)
	context.AfterFunc(ctx, func() { count(-1) })
}

// wants reports whether the layer below an operation is wanted.
func (a *ahead) wants(op digest.Digest) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.wanted[op] > 0
}

// aheadManager is the manager of an operation that begins: the layer below it is made.
type aheadManager struct {
	cache.Manager
	ahead *ahead
}

// New implements cache.Manager.
func (m aheadManager) New(ctx context.Context, parent cache.ImmutableRef, s session.Group, opts ...cache.RefOption) (cache.MutableRef, error) {
	ref, err := m.Manager.New(ctx, parent, s, opts...)
	if err == nil && parent != nil {
		m.ahead.begin(parent.Clone(), s)
	}
	return ref, err
}

// begin makes the layers of ref, which it owns. What fails is for the export to tell,
// which then does it again.
func (a *ahead) begin(ref cache.ImmutableRef, s session.Group) {
	a.making.Go(func() {
		_, _ = exportedRef{ref, a.images}.GetRemotes(a.ctx, true, usual, false, s)
		_ = ref.Release(context.WithoutCancel(a.ctx))
	})
}
