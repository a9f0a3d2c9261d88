package rest

import (
	"context"
	"errors"
	"net/http"

	"github.com/coder/websocket"
	"github.com/danielgtaylor/huma/v2"

	"github.com/berthcloud/berth/api"
)

// buildRoutes registers what concerns builds.
func (s *Server) buildRoutes(a huma.API) {
	handleRaw(a, route{id: "build", method: "GET", path: "/v1/build", tag: "images", summary: "Build images", stream: websocketType,
		description: "A websocket of binary messages, which carry one connection of gRPC: BuildKit's control protocol (moby.buildkit.v1.Control). " +
			"A build ends with its connection."},
		func(in *buildInput) *raw {
			return answer(func(w http.ResponseWriter, r *http.Request) { s.build(in.builds(s), w, r) })
		})
	handle(a, route{id: "prune-build-cache", method: "DELETE", path: "/v1/build/cache", tag: "images", summary: "Remove what of the cache of builds no build uses now"},
		func(ctx context.Context, _ *struct{}) (api.Pruned, error) {
			if s.Builds == nil {
				return api.Pruned{}, errNoBuilds()
			}
			freed, err := s.pruneBuilds(ctx)
			return api.Pruned{Bytes: freed}, err
		})
}

// buildInput says how to build.
type buildInput struct {
	VM bool `query:"vm" doc:"the build is untrusted: each of its steps runs in a VM, and it shares no cache with builds that are not"`
}

func (in *buildInput) builds(s *Server) Builds {
	if in.VM {
		return s.UntrustedBuilds
	}
	return s.Builds
}

// pruneBuilds removes what of either cache no build uses now, and returns the bytes freed.
func (s *Server) pruneBuilds(ctx context.Context) (int64, error) {
	freed, err := s.Builds.Prune(ctx)
	if err != nil || s.UntrustedBuilds == nil {
		return freed, err
	}
	more, err := s.UntrustedBuilds.Prune(ctx)
	return freed + more, err
}

func errNoBuilds() error {
	return api.E("build", api.Unsupported, "", errors.New("this daemon does not build images"))
}

// build upgrades a request to a connection that builds.
func (s *Server) build(builds Builds, w http.ResponseWriter, r *http.Request) {
	if builds == nil {
		fail(w, errNoBuilds())
		return
	}
	st, ok := s.accept(w, r)
	if !ok {
		return
	}
	defer s.streams.Done()
	defer st.conn.CloseNow()
	defer st.cancel()
	work, cancel := s.untilClosing(st.ctx)
	defer cancel()
	if err := builds.Build(work, websocket.NetConn(work, st.conn, websocket.MessageBinary)); err != nil {
		s.log.Error("build", "error", err)
		_ = st.conn.Close(websocket.StatusInternalError, websocketReason(s.errClosing(err)))
	}
}

// maxReason bounds the text with which a websocket closes, in bytes (RFC 6455, 5.5).
const maxReason = 123

func websocketReason(err error) string {
	text := api.OneLine(err.Error())
	return text[:min(len(text), maxReason)]
}
