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
	handleRaw(a, route{id: "instance-screenshot", method: "GET", path: one + "/screenshot", tag: tag, summary: "What a VM's display shows", stream: pngType},
		func(in *RefInput) *raw {
			return answer(func(w http.ResponseWriter, r *http.Request) {
				image, err := s.Consoles.Screenshot(r.Context(), in.Ref)
				if err != nil {
					fail(w, err)
					return
				}
				w.Header().Set("Content-Type", pngType)
				_, _ = w.Write(image) // a client that has gone misses nothing
			})
		})
	handleRaw(a, route{id: "instance-vnc", method: "GET", path: one + "/vnc", tag: tag, summary: "Connect a VNC client to a VM's display", stream: websocketType,
		description: "The stream is that of attach-instance; stdin and stdout carry the bytes of one RFB connection (RFC 6143), which asks for the password."},
		func(in *RefInput) *raw {
			return answer(func(w http.ResponseWriter, r *http.Request) {
				s.serveStreams(w, r, in.Ref, true, s.Consoles.VNC)
			})
		})
	handle(a, route{id: "get-vnc-access", method: "GET", path: one + "/vnc/access", tag: tag, summary: "What a VNC client of a VM has to know"},
		func(ctx context.Context, in *RefInput) (api.VNCAccess, error) {
			return s.Consoles.VNCAccess(ctx, in.Ref)
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
