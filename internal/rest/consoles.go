package rest

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

type consoleInput struct {
	RefInput
	Stdin bool `query:"stdin" doc:"connect the client's input"`
}

// consoleRoutes registers what a machine shows outwards.
func (s *Server) consoleRoutes(a huma.API) {
	const tag, one = "instances", "/v1/instances/{ref}"
	handleRaw(a, route{id: "instance-console", method: "GET", path: one + "/console", tag: tag, summary: "Connect to a VM's serial console", stream: websocketType,
		description: "From then on the stream is that of attach-instance, with stdin and stdout alone. Output begins with the end of what the guest wrote before. " +
			"Several clients may be connected; one that does not read is cut off. Input that the guest does not take is lost."},
		func(in *consoleInput) *raw {
			return answer(func(w http.ResponseWriter, r *http.Request) {
				s.serveStreams(w, r, in.Ref, in.Stdin, s.Consoles.Console)
			})
		})
}

// serveStreams upgrades a request to a stream of an instance that f serves.
func (s *Server) serveStreams(w http.ResponseWriter, r *http.Request, ref string, stdin bool,
	f func(ctx context.Context, ref string, streams instance.Streams) (api.Exit, error),
) {
	inst, err := s.Records.Get(r.Context(), ref)
	if err != nil {
		fail(w, err)
		return
	}
	st, ok := s.accept(w, r)
	if !ok {
		return
	}
	s.run(st, stdin, func(ctx context.Context, streams instance.Streams) (api.Exit, error) {
		return f(ctx, inst.ID, streams)
	})
}
