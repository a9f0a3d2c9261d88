package rest

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/berthcloud/berth/api"
)

// statusClientClosed is nginx's status for a client that has gone: nobody
// reads it but the access log.
const statusClientClosed = 499

// status is the one table from kinds of error to HTTP status.
func status(kind api.ErrorKind) int {
	switch kind {
	case api.Invalid:
		return http.StatusBadRequest
	case api.NotFound:
		return http.StatusNotFound
	case api.Exists, api.InUse, api.Conflict:
		return http.StatusConflict
	case api.Denied:
		return http.StatusForbidden
	case api.Exhausted:
		return http.StatusInsufficientStorage
	case api.Unsupported:
		return http.StatusNotImplemented
	case api.Unavailable:
		return http.StatusServiceUnavailable
	case api.Corrupt, api.NotRunnable, api.NoCommand:
		return http.StatusUnprocessableEntity
	case api.Canceled:
		return statusClientClosed
	}
	return http.StatusInternalServerError
}

// problem is an api.Problem as huma answers with it.
type problem struct{ api.Problem }

func problemOf(err error) *problem { return &problem{*api.ProblemOf(err)} }

// Error and GetStatus implement huma.StatusError.
func (p *problem) Error() string  { return p.Message }
func (p *problem) GetStatus() int { return status(p.Kind) }

// MarshalJSON writes the api.Problem alone.
func (p *problem) MarshalJSON() ([]byte, error) { return json.Marshal(p.Problem) }

// fail answers a request with a problem.
func fail(w http.ResponseWriter, err error) {
	p := problemOf(err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(p.GetStatus())
	_ = json.NewEncoder(w).Encode(p)
}

// toProblem is a huma.Transformer: it turns what huma itself refuses (a body
// or parameter that does not fit its schema) into a problem.
func toProblem(ctx huma.Context, _ string, v any) (any, error) {
	m, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	ctx.SetHeader("Content-Type", "application/json")
	why := make([]string, 0, len(m.Errors))
	for _, d := range m.Errors {
		text := d.Message
		if d.Location != "" {
			text = d.Location + ": " + text
		}
		why = append(why, text)
	}
	if len(why) == 0 {
		why = append(why, m.Detail)
	}
	kind := api.Invalid
	if m.Status >= 500 {
		kind = api.Internal
	}
	return api.ProblemOf(api.E("", kind, "", errors.New("malformed request: "+strings.Join(why, "; ")+"; see /v1/openapi.json"))), nil
}
