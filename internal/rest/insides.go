package rest

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/engine"
	"github.com/berthcloud/berth/internal/instance"
)

type logsInput struct {
	RefInput
	Follow bool      `query:"follow" doc:"go on until the instance ends"`
	Since  time.Time `query:"since"`
	Until  time.Time `query:"until"`
	Tail   int       `query:"tail" default:"-1" minimum:"-1" doc:"the last so many lines; -1 for all"`
}

// StreamInput says what a client connects to an entrypoint.
type StreamInput struct {
	Stdin bool   `query:"stdin" doc:"connect standard input"`
	Rows  uint16 `query:"rows" doc:"of the client's terminal"`
	Cols  uint16 `query:"cols"`
}

type attachInput struct {
	RefInput
	Start bool `query:"start" doc:"start the instance once nothing can be missed"`
	StreamInput
}

type execInput struct {
	RefInput
	Body api.Exec
}

type filesInput struct {
	RefInput
	Path string `query:"path" required:"true" minLength:"1" maxLength:"4096" doc:"absolute, in the instance"`
}

// insideRoutes registers what reaches into an instance.
func (s *Server) insideRoutes(a huma.API) {
	const tag, one = "instances", "/v1/instances/{ref}"
	handleRaw(a, route{id: "instance-logs", method: "GET", path: one + "/logs", tag: tag, summary: "What an instance wrote", stream: linesType, schema: api.LogLine{}},
		func(in *logsInput) *raw {
			return lines(s, in.Follow, func(ctx context.Context, f func(api.LogLine) error) error {
				return s.Insides.Logs(ctx, in.Ref, engine.LogOptions{Follow: in.Follow, Since: in.Since, Until: in.Until, Tail: in.Tail}, f)
			})
		})
	handleRaw(a, route{id: "attach-instance", method: "GET", path: one + "/attach", tag: tag, summary: "Connect to an instance's standard streams", stream: websocketType,
		description: "A websocket of binary messages. The first byte is the channel: 0 stdin, 1 stdout, 2 stderr, 3 a control message as JSON. " +
			"The client may send {\"resize\":{\"rows\":R,\"cols\":C}} and {\"close_stdin\":true}. The server sends {\"started\":STATUS} once the instance runs, " +
			"where start was asked for, and {\"exit\":EXIT} or {\"problem\":PROBLEM} as its last message."},
		func(in *attachInput) *raw {
			return answer(func(w http.ResponseWriter, r *http.Request) { s.attach(w, r, in) })
		})
	handleRaw(a, route{id: "run-instance", method: "GET", path: "/v1/run", tag: tag, summary: "Make an instance, connect to its standard streams and start it", stream: websocketType,
		description: "The client's first message is a text message with a Spec as JSON. The server sends {\"created\":{\"id\":ID,\"name\":NAME}}; " +
			"from then on the stream is that of attach-instance with start. Where the start fails, nothing is left of the instance."},
		func(in *StreamInput) *raw {
			return answer(func(w http.ResponseWriter, r *http.Request) { s.runInstance(w, r, in) })
		})
	handleRaw(a, route{id: "exec-instance", method: "GET", path: one + "/exec", tag: tag, summary: "Run a command in an instance", stream: websocketType,
		description: "The client's first message is a text message with an Exec as JSON. From then on the stream is that of attach-instance. A client that goes away ends the command."},
		func(in *RefInput) *raw {
			return answer(func(w http.ResponseWriter, r *http.Request) { s.exec(w, r, in.Ref) })
		})
	handle(a, route{id: "exec-instance-detached", method: "POST", path: one + "/exec", tag: tag, summary: "Run a command in an instance in the background"},
		func(ctx context.Context, in *execInput) (struct{}, error) { return none(s.execDetached(ctx, in)) })
	handle(a, route{id: "instance-stats", method: "GET", path: one + "/stats", tag: tag, summary: "What an instance has used"},
		func(ctx context.Context, in *RefInput) (api.Stats, error) { return s.Insides.Stats(ctx, in.Ref) })
	handle(a, route{id: "instance-changes", method: "GET", path: one + "/changes", tag: tag, summary: "What an instance has changed in its root filesystem",
		description: "Its processes are held still meanwhile."},
		func(ctx context.Context, in *RefInput) ([]api.Change, error) {
			return orEmpty(s.Insides.Diff(ctx, in.Ref))
		})
	handle(a, route{id: "instance-top", method: "GET", path: one + "/top", tag: tag, summary: "The processes of an instance"},
		func(ctx context.Context, in *RefInput) (api.Top, error) { return s.Insides.Top(ctx, in.Ref) })
	handleRaw(a, route{id: "copy-out", method: "GET", path: one + "/files", tag: tag, summary: "A file or directory of an instance as a tar stream", stream: tarType},
		func(in *filesInput) *raw {
			return tarball(func(ctx context.Context, w io.Writer) error { return s.Insides.CopyOut(ctx, in.Ref, in.Path, w) })
		})
	handleRaw(a, route{id: "copy-in", method: "PUT", path: one + "/files", tag: tag, summary: "Unpack a tar stream in a directory of an instance", body: tarType, status: http.StatusNoContent},
		func(in *filesInput) *raw {
			return answer(func(w http.ResponseWriter, r *http.Request) {
				tar, err := body(r)
				if err == nil {
					err = s.Insides.CopyIn(r.Context(), in.Ref, in.Path, tar)
				}
				if err != nil {
					fail(w, err)
					return
				}
				w.WriteHeader(http.StatusNoContent)
			})
		})
}

// execDetached runs a command that outlives the request, without streams. How
// it ends is in the log alone.
func (s *Server) execDetached(ctx context.Context, in *execInput) error {
	inst, err := s.Records.Get(ctx, in.Ref)
	if err != nil {
		return err
	}
	if inst.Status.State != api.Running {
		return api.E("exec", api.Conflict, inst.Name, notRunning(inst.Status.State))
	}
	s.streams.Go(func() {
		exit, err := s.Insides.Exec(s.closing, inst.ID, in.Body, instance.Streams{})
		s.log.Info("a detached command ended", "instance", inst.Name, "command", in.Body.Command, "code", exit.Code, "err", err)
	})
	return nil
}
