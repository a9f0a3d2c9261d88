package rest

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/berthcloud/berth/api"
)

// problemTrailer says, after a tar stream, that it ended early.
const problemTrailer = "Berth-Problem"

// raw is an answer that a handler writes itself.
type raw struct{ Body func(huma.Context) }

// answer makes an answer of a plain HTTP handler.
func answer(h http.HandlerFunc) *raw {
	return &raw{Body: func(ctx huma.Context) {
		r, w := humago.Unwrap(ctx)
		h(w, r)
	}}
}

// lines answers with what each hands out, one JSON value per line, until it
// returns, the client goes, or the server shuts down. A failure before the
// first line is an ordinary problem. Eager sends every line at once; else the
// lines are sent when enough have come together.
func lines[T any](s *Server, eager bool, each func(context.Context, func(T) error) error) *raw {
	return answer(linesHandler(s, eager, each))
}

// linesHandler is lines as a plain HTTP handler.
func linesHandler[T any](s *Server, eager bool, each func(context.Context, func(T) error) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := s.untilClosing(r.Context())
		defer cancel()
		enc, begun := json.NewEncoder(w), false
		begin := func() {
			if !begun {
				begun = true
				w.Header().Set("Content-Type", "application/x-ndjson")
			}
		}
		flush := http.NewResponseController(w).Flush
		err := each(ctx, func(v T) error {
			begin()
			if err := enc.Encode(v); err != nil || !eager {
				return err
			}
			return flush()
		})
		err = s.errClosing(err)
		switch {
		case err == nil && begun:
		case err == nil:
			begin()
			w.WriteHeader(http.StatusOK)
		case r.Context().Err() != nil: // nobody listens any more
		case !begun:
			fail(w, err)
		default:
			_ = enc.Encode(struct {
				Problem *api.Problem `json:"problem"`
			}{api.ProblemOf(err)})
		}
	}
}

// tarball answers with a tar stream that write writes. A failure before its
// first byte is an ordinary problem, one after it a trailer.
func tarball(write func(context.Context, io.Writer) error) *raw {
	return answer(func(w http.ResponseWriter, r *http.Request) {
		out := &tarWriter{w: w}
		err := write(r.Context(), out)
		switch {
		case err == nil:
			out.begin()
		case !out.begun:
			fail(w, err)
		default:
			text, _ := json.Marshal(api.ProblemOf(err))
			w.Header().Set(problemTrailer, string(text))
		}
	})
}

// tarWriter announces a tar stream before its first byte.
type tarWriter struct {
	w     http.ResponseWriter
	begun bool
}

func (t *tarWriter) begin() {
	if !t.begun {
		t.begun = true
		t.w.Header().Set("Content-Type", "application/x-tar")
		t.w.Header().Set("Trailer", problemTrailer)
		t.w.WriteHeader(http.StatusOK)
	}
}

// Write implements io.Writer.
func (t *tarWriter) Write(p []byte) (int, error) {
	t.begin()
	return t.w.Write(p)
}

// errNoBody refuses a request whose tar stream was left out.
var errNoBody = api.E("", api.Invalid, "", errors.New("malformed request: the body is empty; send a tar stream"))

// body returns the tar stream of a request.
func body(r *http.Request) (io.Reader, error) {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return nil, errNoBody
	}
	return r.Body, nil
}
