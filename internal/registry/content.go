package registry

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/internal/image"
)

const digestHeader = "Docker-Content-Digest"

// getManifest is "Pulling manifests".
func (s *Server) getManifest(w http.ResponseWriter, q *request) error {
	desc, body, err := s.content.Manifest(q.Context(), q.repo, q.ref)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", desc.MediaType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set(digestHeader, desc.Digest.String())
	h.Set("Etag", strconv.Quote(desc.Digest.String()))
	w.WriteHeader(http.StatusOK)
	if q.Method != http.MethodHead {
		_, _ = w.Write(body) // a client that has gone needs no answer
	}
	return nil
}

// maxTags is how many tags may come with one manifest.
const maxTags = 32

// putManifest is "Pushing Manifests".
func (s *Server) putManifest(w http.ResponseWriter, q *request) error {
	mediaType, _, err := mime.ParseMediaType(q.Header.Get("Content-Type"))
	if err != nil {
		return &refusal{http.StatusBadRequest, "MANIFEST_INVALID", "the Content-Type of the manifest is missing"}
	}
	more := q.URL.Query()["tag"]
	if len(more) > maxTags {
		return &refusal{http.StatusRequestURITooLong, "MANIFEST_INVALID", fmt.Sprintf("more than %d tags at once", maxTags)}
	}
	if slices.ContainsFunc(more, func(tag string) bool { return !tagGrammar.MatchString(tag) }) {
		return errRefInvalid
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, q.Body, image.MaxManifest))
	if err != nil {
		return err
	}
	desc, subject, err := s.content.PutManifest(q.Context(), q.repo, q.ref, mediaType, body, more...)
	if err != nil {
		return err
	}
	h := w.Header()
	if subject != "" {
		h.Set("OCI-Subject", subject.String())
	}
	if len(more) > 0 {
		h.Set("OCI-Tag", strings.Join(more, ", "))
	}
	h.Set("Location", "/v2/"+q.name+"/manifests/"+desc.Digest.String())
	h.Set(digestHeader, desc.Digest.String())
	w.WriteHeader(http.StatusCreated)
	return nil
}

// deleteManifest is "Deleting tags" and "Deleting Manifests".
func (s *Server) deleteManifest(w http.ResponseWriter, q *request) error {
	if err := s.content.DeleteManifest(q.Context(), q.repo, q.ref); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// getBlob is "Pulling blobs".
func (s *Server) getBlob(w http.ResponseWriter, q *request) error {
	f, _, err := s.content.Blob(q.Context(), q.repo, digest.Digest(q.ref))
	if err != nil {
		return err
	}
	defer f.Close()
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set(digestHeader, q.ref)
	h.Set("Etag", strconv.Quote(q.ref))
	http.ServeContent(w, q.Request, "", time.Time{}, f)
	return nil
}

// deleteBlob is "Deleting Blobs".
func (s *Server) deleteBlob(w http.ResponseWriter, q *request) error {
	if err := s.content.DeleteBlob(q.Context(), q.repo, digest.Digest(q.ref)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// tags is "Listing Tags".
func (s *Server) tags(w http.ResponseWriter, q *request) error {
	all, err := s.content.Tags(q.Context(), q.repo)
	if err != nil {
		return err
	}
	found, err := page(w, q, all)
	if err != nil {
		return err
	}
	answer(w, http.StatusOK, "application/json", map[string]any{"name": q.name, "tags": found})
	return nil
}

// catalog lists the registry's own repositories that the user may pull from: docker's
// extension of the protocol.
func (s *Server) catalog(w http.ResponseWriter, q *request) error {
	all, err := s.content.Names(q.Context())
	if err != nil {
		return err
	}
	names := []string{}
	for _, full := range all {
		if name, ok := strings.CutPrefix(full, s.name+"/"); ok && s.access.may(q.user, pull, full) {
			names = append(names, name)
		}
	}
	if names, err = page(w, q, names); err != nil {
		return err
	}
	answer(w, http.StatusOK, "application/json", map[string]any{"repositories": names})
	return nil
}

// page returns what the query wants of a sorted list, and says where it goes on.
func page(w http.ResponseWriter, q *request, all []string) ([]string, error) {
	query := q.URL.Query()
	if last := query.Get("last"); last != "" {
		at, found := slices.BinarySearch(all, last)
		if found {
			at++
		}
		all = all[at:]
	}
	if text := query.Get("n"); text != "" {
		n, err := strconv.ParseUint(text, 10, 31)
		if err != nil {
			return nil, &refusal{http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "n is no number"}
		}
		if n > 0 && int(n) < len(all) {
			next(w, q, all[n-1])
		}
		all = all[:min(int(n), len(all))]
	}
	return append([]string{}, all...), nil
}

// next says that a list goes on after last (RFC 8288).
func next(w http.ResponseWriter, q *request, last string) {
	query := url.Values{}
	for _, key := range []string{"n", "ns", "artifactType"} {
		if v := q.URL.Query().Get(key); v != "" {
			query.Set(key, v)
		}
	}
	query.Set("last", last)
	w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, q.URL.EscapedPath(), query.Encode()))
}

// maxReferrers bounds one answer, in bytes: an index is a manifest.
const maxReferrers = image.MaxManifest - 64<<10

// referrers is "Listing Referrers".
func (s *Server) referrers(w http.ResponseWriter, q *request) error {
	all, err := s.content.Referrers(q.Context(), q.repo, digest.Digest(q.ref))
	if err != nil {
		return err
	}
	query := q.URL.Query()
	if kind := query.Get("artifactType"); kind != "" {
		all = slices.DeleteFunc(all, func(d ocispec.Descriptor) bool { return d.ArtifactType != kind })
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	all = slices.DeleteFunc(all, func(d ocispec.Descriptor) bool { return d.Digest.String() <= query.Get("last") })
	size := 0
	for i, d := range all {
		b, err := json.Marshal(d)
		if err != nil {
			return err
		}
		if size += len(b) + 1; size > maxReferrers && i > 0 {
			next(w, q, all[i-1].Digest.String())
			all = all[:i]
			break
		}
	}
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: all}
	index.SchemaVersion = 2
	answer(w, http.StatusOK, ocispec.MediaTypeImageIndex, index)
	return nil
}
