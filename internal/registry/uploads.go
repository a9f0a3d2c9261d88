package registry

import (
	"net/http"

	"github.com/opencontainers/go-digest"

	"github.com/berthcloud/berth/internal/image"
)

// postUpload is "Mounting a blob from another repository", "Single POST" and the
// beginning of the others.
func (s *Server) postUpload(w http.ResponseWriter, q *request) error {
	query := q.URL.Query()
	if query.Has("mount") {
		d, err := parseDigest(query.Get("mount"))
		if err != nil {
			return err
		}
		if s.mount(q, d, query.Get("from")) {
			created(w, q, d)
			return nil
		}
	}
	algorithm := digest.SHA256
	if text := query.Get("digest-algorithm"); text != "" {
		if algorithm = digest.Algorithm(text); algorithm != digest.SHA256 && algorithm != digest.SHA512 {
			return errDigest
		}
	}
	var whole digest.Digest
	if query.Has("digest") {
		var err error
		if whole, err = parseDigest(query.Get("digest")); err != nil {
			return err
		}
		algorithm = whole.Algorithm()
	}
	u, err := s.content.NewUpload(q.Context(), q.repo, algorithm)
	if err != nil {
		return err
	}
	if whole == "" {
		return progress(w, q, u, http.StatusAccepted)
	}
	if _, err := u.Append(q.Body, 0); err != nil {
		u.Cancel()
		return err
	}
	if err := u.Commit(whole); err != nil {
		return err
	}
	created(w, q, whole)
	return nil
}

// mount tries to take a blob over from a repository that the user may pull from: the one
// he names, or any.
func (s *Server) mount(q *request, d digest.Digest, from string) bool {
	names := []string{s.name + "/" + from}
	if from == "" {
		names, _ = s.content.Names(q.Context()) // without it is only slower
	}
	for _, name := range names {
		if s.access.may(q.user, pull, name) && s.content.Mount(q.Context(), q.repo, d, name) == nil {
			return true
		}
	}
	return false
}

// progress tells how far an upload is.
func progress(w http.ResponseWriter, q *request, u *image.Upload, status int) error {
	size, err := u.Size()
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Location", "/v2/"+q.name+"/blobs/uploads/"+u.ID)
	h.Set("Range", uploaded(size))
	h.Set("Docker-Upload-UUID", u.ID)
	w.WriteHeader(status)
	return nil
}

// created tells where a blob is.
func created(w http.ResponseWriter, q *request, d digest.Digest) {
	w.Header().Set("Location", "/v2/"+q.name+"/blobs/"+d.String())
	w.Header().Set(digestHeader, d.String())
	w.WriteHeader(http.StatusCreated)
}

// getUpload tells where a chunk is to begin.
func (s *Server) getUpload(w http.ResponseWriter, q *request) error {
	u, err := s.content.Upload(q.repo, q.ref)
	if err != nil {
		return err
	}
	return progress(w, q, u, http.StatusNoContent)
}

// patchUpload is "Pushing a blob in chunks".
func (s *Server) patchUpload(w http.ResponseWriter, q *request) error {
	u, err := s.content.Upload(q.repo, q.ref)
	if err != nil {
		return err
	}
	at, err := parseContentRange(q.Header.Get("Content-Range"), q.ContentLength)
	if err != nil {
		return err
	}
	if _, err := u.Append(q.Body, at); err != nil {
		return err
	}
	return progress(w, q, u, http.StatusAccepted)
}

// putUpload ends an upload, and may bring its last bytes.
func (s *Server) putUpload(w http.ResponseWriter, q *request) error {
	u, err := s.content.Upload(q.repo, q.ref)
	if err != nil {
		return err
	}
	d, err := parseDigest(q.URL.Query().Get("digest"))
	if err != nil {
		return err
	}
	at, err := parseContentRange(q.Header.Get("Content-Range"), q.ContentLength)
	if err != nil {
		return err
	}
	if _, err := u.Append(q.Body, at); err != nil {
		return err
	}
	if err := u.Commit(d); err != nil {
		return err
	}
	created(w, q, d)
	return nil
}

// deleteUpload is "Cancel a blob upload".
func (s *Server) deleteUpload(w http.ResponseWriter, q *request) error {
	u, err := s.content.Upload(q.repo, q.ref)
	if err != nil {
		return err
	}
	u.Cancel()
	w.WriteHeader(http.StatusNoContent)
	return nil
}
