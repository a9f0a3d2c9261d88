package registry

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
)

// refusal is an error as the distribution-spec has it ("Error Codes").
type refusal struct {
	status  int
	code    string
	message string
}

// Error implements error.
func (r *refusal) Error() string { return r.message }

// refused is the one table from errors to refusals; what says which kind of thing was
// not found.
func refused(err error, what string) *refusal {
	var r *refusal
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &r):
		return r
	case errors.As(err, &tooLarge):
		return &refusal{http.StatusRequestEntityTooLarge, "SIZE_INVALID", "a manifest has at most 4 MiB"}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &refusal{http.StatusRequestTimeout, "BLOB_UPLOAD_INVALID", "too little arrives; the upload can be resumed"}
	case errors.Is(err, image.ErrBlobUnknown):
		return &refusal{http.StatusNotFound, "MANIFEST_BLOB_UNKNOWN", err.Error()}
	}
	r = &refusal{http.StatusInternalServerError, "UNKNOWN", err.Error()}
	switch api.KindOf(err) {
	case api.NotFound:
		r.status, r.code = http.StatusNotFound, map[string]string{
			manifests: "MANIFEST_UNKNOWN", blobs: "BLOB_UNKNOWN", uploads: "BLOB_UPLOAD_UNKNOWN",
		}[what]
	case api.Corrupt, api.Invalid, api.Unsupported:
		r.status, r.code = http.StatusBadRequest, "DIGEST_INVALID"
		if what == manifests {
			r.code = "MANIFEST_INVALID"
		}
	case api.Conflict:
		r.status, r.code = http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID"
	case api.InUse:
		r.status, r.code = http.StatusMethodNotAllowed, "UNSUPPORTED"
	case api.Denied:
		r.status, r.code = http.StatusForbidden, "DENIED"
	case api.Unavailable:
		r.status, r.code = http.StatusTooManyRequests, "TOOMANYREQUESTS"
	case api.Exhausted:
		r.status = http.StatusInsufficientStorage
	}
	return r
}

// fail answers with an error.
func fail(w http.ResponseWriter, err error, what string) {
	r := refused(err, what)
	type one struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	answer(w, r.status, "application/json", map[string][]one{"errors": {{r.code, api.OneLine(r.message)}}})
}

// answer answers with a document.
func answer(w http.ResponseWriter, status int, mediaType string, doc any) {
	w.Header().Set("Content-Type", mediaType)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(doc) // a client that has gone needs no answer
}
