package registry

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
)

// What a path is about.
const (
	ping      = "ping"
	catalog   = "catalog"
	token     = "token"
	tags      = "tags"
	manifests = "manifests"
	blobs     = "blobs"
	uploads   = "uploads"
	referrers = "referrers"
)

// route is a path, taken apart.
type route struct {
	what string
	name string // of the repository, as the client calls it
	ref  string // a tag, a digest or the ID of an upload; "" for a new upload
}

// The grammar of the distribution-spec, "Pulling manifests". RE2 takes linear time.
var (
	nameGrammar = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagGrammar  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	idGrammar   = regexp.MustCompile(`^[a-z0-9]{20,32}$`)
)

// tokenPath is where tokens are given out.
const tokenPath = "/token"

// maxRepository bounds a repository's name in bytes: clients allow 255, with the host.
const maxRepository = 220

// problems of a request, with the code and status that the distribution-spec has for
// them ("Error Codes").
var (
	errNoSuchPath  = &refusal{404, "UNSUPPORTED", "no such path"}
	errMethod      = &refusal{405, "UNSUPPORTED", "no such method here"}
	errNameInvalid = &refusal{400, "NAME_INVALID", "no valid name of a repository"}
	errRefInvalid  = &refusal{404, "MANIFEST_UNKNOWN", "no valid tag or digest"}
	errDigest      = &refusal{400, "DIGEST_INVALID", "no valid digest of sha256 or sha512"}
	errNoUpload    = &refusal{404, "BLOB_UPLOAD_UNKNOWN", "no such upload"}
	errRange       = &refusal{416, "BLOB_UPLOAD_INVALID", "no valid Content-Range, or not that of the body; write it as in 0-1023"}
)

// parseRoute takes a path apart.
func parseRoute(path string) (route, error) {
	switch path {
	case "/v2/", "/v2":
		return route{what: ping}, nil
	case "/v2/_catalog":
		return route{what: catalog}, nil
	case tokenPath:
		return route{what: token}, nil
	}
	rest, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		return route{}, errNoSuchPath
	}
	// The name has any number of parts, so that a path is read from its end.
	parts := strings.Split(rest, "/")
	n := len(parts)
	if n < 3 {
		return route{}, errNoSuchPath
	}
	r := route{what: parts[n-2], name: strings.Join(parts[:n-2], "/"), ref: parts[n-1]}
	switch {
	case n > 3 && parts[n-3] == blobs && r.what == uploads:
		r.name = strings.Join(parts[:n-3], "/")
	case r.what == blobs && r.ref == uploads: // without the slash at the end
		r.what, r.ref = uploads, ""
	case r.what == tags && r.ref == "list", r.what == manifests, r.what == blobs, r.what == referrers:
	default:
		return route{}, errNoSuchPath
	}
	if len(r.name) > maxRepository || !nameGrammar.MatchString(r.name) {
		return route{}, errNameInvalid
	}
	return r, r.check()
}

// check checks the last part.
func (r route) check() error {
	switch {
	case r.what == manifests && strings.Contains(r.ref, ":"), r.what == blobs, r.what == referrers:
		_, err := parseDigest(r.ref)
		return err
	case r.what == manifests && !tagGrammar.MatchString(r.ref):
		return errRefInvalid
	case r.what == uploads && r.ref != "" && !idGrammar.MatchString(r.ref):
		return errNoUpload
	}
	return nil
}

// parseDigest reads a digest of an algorithm that the store has.
func parseDigest(text string) (digest.Digest, error) {
	d := digest.Digest(text)
	if len(text) > 200 || d.Validate() != nil || d.Algorithm() != digest.SHA256 && d.Algorithm() != digest.SHA512 {
		return "", errDigest
	}
	return d, nil
}

// parseContentRange reads the header of a chunk of length bytes, -1 if that is not
// known, and returns where it begins: -1 without the header.
func parseContentRange(header string, length int64) (int64, error) {
	if header == "" {
		return -1, nil
	}
	from, to, ok := strings.Cut(header, "-")
	first, err := strconv.ParseUint(from, 10, 62)
	last, err2 := strconv.ParseUint(to, 10, 62)
	if !ok || err != nil || err2 != nil || last < first || length >= 0 && last-first+1 != uint64(length) {
		return 0, errRange
	}
	return int64(first), nil
}

// uploaded is the header Range of an upload's answers. It cannot say that nothing has
// arrived.
func uploaded(size int64) string { return fmt.Sprintf("0-%d", max(size-1, 0)) }
