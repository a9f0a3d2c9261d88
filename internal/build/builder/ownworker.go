package builder

import (
	"strings"

	"github.com/moby/buildkit/frontend"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/llbsolver/ops"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/worker"
	"github.com/moby/buildkit/worker/base"
)

// ownWorker is BuildKit's worker, but for how images come in and layers go out.
type ownWorker struct {
	*base.Worker
	ahead *ahead
}

// ResolveOp implements worker.Worker. An image of which nothing is said, as the scanner of a
// bill of materials, is taken from here before its registry is asked, as any other: where
// there is no way to the registry, asking took 100 s, and where there is one, somebody else
// might have an image of that name there.
func (w ownWorker) ResolveOp(v solver.Vertex, s frontend.FrontendLLBBridge, sessions *session.Manager, proxy worker.ProxyOpt) (solver.Op, error) {
	op, ok := v.Sys().(*pb.Op)
	switch {
	case !ok:
	case saysNothing(op.GetSource()):
		v = localFirst{v, op}
	case !proxy.Network && w.ahead.wants(v.Digest()): // as BuildKit's, but with a manager of ours
		manager := aheadManager{w.CacheMgr, w.ahead}
		switch one := op.Op.(type) {
		case *pb.Op_Exec:
			return ops.NewExecOp(v, one, op.Platform, manager, w.ParallelismSem, sessions, w.Executor(), w.Worker, nil, false)
		case *pb.Op_File:
			return ops.NewFileOp(v, one, manager, w.ParallelismSem, w.Worker)
		}
	}
	return w.Worker.ResolveOp(v, s, sessions, proxy)
}

// saysNothing reports whether a source is an image that may come from anywhere.
func saysNothing(source *pb.SourceOp) bool {
	return strings.HasPrefix(source.GetIdentifier(), "docker-image://") && source.Attrs[pb.AttrImageResolveMode] == ""
}

// localFirst is a source that is looked for here first.
type localFirst struct {
	solver.Vertex
	op *pb.Op
}

// Sys implements solver.Vertex.
func (l localFirst) Sys() any {
	op := l.op.CloneVT()
	source := op.GetSource()
	if source.Attrs == nil {
		source.Attrs = map[string]string{}
	}
	source.Attrs[pb.AttrImageResolveMode] = pb.AttrImageResolveModePreferLocal
	return op
}
