package builder

import (
	"context"
	"maps"
	"regexp"

	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/frontend"
	dockerfile "github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/gateway"
	"github.com/moby/buildkit/frontend/gateway/forwarder"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/worker"
)

// frontends returns BuildKit's frontends by name.
func frontends(workers worker.Infos, early *ahead) (map[string]frontend.Frontend, error) {
	embedded := forwarder.NewGatewayForwarder(workers, dockerfile.Build)
	images, err := gateway.NewGatewayFrontend(workers, nil)
	if err != nil {
		return nil, err
	}
	return map[string]frontend.Frontend{"dockerfile.v0": aheadFrontend{embedded, early}, "gateway.v0": &syntaxes{embedded, images}}, nil
}

// syntaxes runs the frontend that a Dockerfile names in its line "# syntax=". The stable
// one of Docker's is the one that is embedded, if not of the same version: to fetch it
// would make each such build depend on a registry, for nothing.
type syntaxes struct{ embedded, images frontend.Frontend }

// stable are the names of Docker's frontend whose releases understand what older ones
// do.
var stable = regexp.MustCompile(`^(docker\.io/)?docker/dockerfile(:(1|1\.[0-9]+|latest))?$`)

// Solve implements frontend.Frontend.
func (s *syntaxes) Solve(ctx context.Context, bridge frontend.FrontendLLBBridge, exec executor.Executor, opts map[string]string,
	inputs map[string]*pb.Definition, session string, sessions *session.Manager,
) (*frontend.Result, error) {
	source := opts["source"]
	if !stable.MatchString(source) {
		return s.images.Solve(ctx, bridge, exec, opts, inputs, session, sessions)
	}
	opts = maps.Clone(opts)
	if opts["cmdline"] == "" {
		opts["cmdline"] = source // else it would look for the line again
	}
	return s.embedded.Solve(ctx, bridge, exec, opts, inputs, session, sessions)
}
