package rest

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"reflect"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/berthcloud/berth/api"
)

// bodyLimit bounds the JSON body of a request in bytes.
const bodyLimit = 1 << 20

// OpenAPI returns the document that describes the API, OpenAPI 3.1 as indented
// JSON. It needs no daemon: docs/openapi.json is made of it.
func OpenAPI() ([]byte, error) {
	_, doc := New(Backend{}, slog.New(slog.DiscardHandler)).routes()
	text, err := json.MarshalIndent(doc, "", "  ")
	return append(text, '\n'), err
}

// strictCasing makes huma refuse {"Image": …} where it knows "image": Go would
// read it as the same field, so that of two spellings in one body a reader
// before the daemon could believe the wrong one. huma has only a global for
// it, set before the first request and never again.
var strictCasing = sync.OnceFunc(func() { huma.ValidateStrictCasing = true })

// routes builds the handlers of all operations, and the document that
// describes them.
func (s *Server) routes() (*http.ServeMux, *huma.OpenAPI) {
	strictCasing()
	mux := http.NewServeMux()
	registry := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	a := humago.New(mux, huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title:       "Berth",
				Version:     api.Version,
				Description: "Containers and virtual machines from the same images. Served on a unix socket.",
				License:     &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"},
			},
			Components: &huma.Components{Schemas: registry},
		},
		Formats:                      map[string]huma.Format{"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat},
		DefaultFormat:                "application/json",
		RejectUnknownQueryParameters: true,
		Transformers:                 []huma.Transformer{toProblem},
	})
	s.instanceRoutes(a)
	s.insideRoutes(a)
	s.consoleRoutes(a)
	s.snapshotRoutes(a)
	s.imageRoutes(a)
	s.buildRoutes(a)
	s.operationRoutes(a)
	s.volumeRoutes(a)
	s.networkRoutes(a)
	s.hostRoutes(a)
	// huma describes its own error type beside ours; nothing refers to it.
	delete(registry.Map(), "ErrorModel")
	delete(registry.Map(), "ErrorDetail")

	doc := a.OpenAPI()
	mux.HandleFunc("GET /v1/openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/vnd.oai.openapi+json")
		_ = json.NewEncoder(w).Encode(doc)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, noRoute(r))
	})
	return mux, doc
}

// route describes one operation.
type route struct {
	id, method, path string
	tag, summary     string
	description      string
	status           int    // of a success; default 200, or 204 without a body
	stream           string // content type of an answer that a handler writes itself
	body             string // content type of a request body that a handler reads itself
	schema           any    // value of the type of one JSON value of a stream
}

// handle registers an operation whose answer is a value, or none (O is
// struct{}).
func handle[I, O any](a huma.API, r route, f func(context.Context, *I) (O, error)) {
	op := r.operation(a)
	type out struct{ Body O }
	if _, none := any(*new(O)).(struct{}); none {
		op.DefaultStatus = http.StatusNoContent
		huma.Register(a, op, func(ctx context.Context, in *I) (*struct{}, error) {
			if _, err := f(ctx, in); err != nil {
				return nil, problemOf(err)
			}
			return nil, nil
		})
		return
	}
	huma.Register(a, op, func(ctx context.Context, in *I) (*out, error) {
		v, err := f(ctx, in)
		if err != nil {
			return nil, problemOf(err)
		}
		return &out{v}, nil
	})
}

// handleRaw registers an operation whose answer a plain HTTP handler writes.
func handleRaw[I any](a huma.API, r route, f func(in *I) *raw) {
	huma.Register(a, r.operation(a), func(_ context.Context, in *I) (*raw, error) { return f(in), nil })
}

// operation is the description of a route as huma wants it.
func (r route) operation(a huma.API) huma.Operation {
	schemas := a.OpenAPI().Components.Schemas
	op := huma.Operation{
		OperationID: r.id, Method: r.method, Path: r.path, Tags: []string{r.tag},
		Summary: r.summary, Description: r.description, DefaultStatus: r.status,
		MaxBodyBytes: bodyLimit,
		// No deadline: when it passes during a long handler, net/http takes
		// the client for gone and ends the request's context.
		BodyReadTimeout: -1,
		Responses: map[string]*huma.Response{"default": {
			Description: "A failure",
			Content:     map[string]*huma.MediaType{"application/json": {Schema: schemas.Schema(reflect.TypeFor[api.Problem](), true, "Problem")}},
		}},
	}
	if r.stream != "" {
		media := &huma.MediaType{}
		if r.schema != nil {
			media.Schema = schemas.Schema(reflect.TypeOf(r.schema), true, "")
		}
		if r.stream == websocketType {
			op.DefaultStatus = http.StatusSwitchingProtocols
			op.Responses["101"] = &huma.Response{Description: "The websocket is open"}
		} else {
			op.DefaultStatus = http.StatusOK
			op.Responses["200"] = &huma.Response{Description: "A stream", Content: map[string]*huma.MediaType{r.stream: media}}
		}
	}
	if r.body != "" {
		op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
			r.body: {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}},
		}}
	}
	return op
}
