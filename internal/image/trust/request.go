package trust

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berthcloud/berth/api"
)

// Media types of signatures.
const (
	// Bundle begins the media types of signatures as cosign makes them from version 3
	// on: blobs of manifests that refer to the image.
	Bundle = "application/vnd.dev.sigstore.bundle"
	// SimpleSigning is the media type of what older ones sign: layers of a manifest
	// whose tag is made of the image's digest. The signature is an annotation.
	SimpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json"
)

// SimpleTag returns the tag of the manifest with the simple signatures of an image.
func SimpleTag(target digest.Digest) string {
	return target.Algorithm().String() + "-" + target.Encoded() + ".sig"
}

// Signature is what a registry has of one: its blob, and of a simple one the
// annotations of its layer.
type Signature struct {
	MediaType   string            `json:"media_type"`
	Blob        []byte            `json:"blob"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Request asks whether one of the signatures is of the image, by who is required. It
// holds all that is needed to answer: keys and certificates are in PEM.
type Request struct {
	Name       string        `json:"name"` // full, as in docker.io/library/debian:12
	Digest     digest.Digest `json:"digest"`
	Signatures []Signature   `json:"signatures"`

	Keys          [][]byte `json:"keys,omitempty"`          // one of them; or
	Roots         []byte   `json:"roots,omitempty"`         // a certificate of these authorities
	Intermediates []byte   `json:"intermediates,omitempty"` // by way of these
	Email         string   `json:"email,omitempty"`         // for who is known as that
	Host          string   `json:"host,omitempty"`          // and that
	Issuer        string   `json:"issuer,omitempty"`        // to this one, and
	Log           []byte   `json:"log,omitempty"`           // the log with this key has it; "" for one that is valid now

	Identity Identity `json:"identity"`
}

// Answer is that to a Request: Why is "" if one of the signatures does, or says what is
// wrong with the last. Unreadable says what is wrong with the request's keys instead.
type Answer struct {
	Why        string `json:"why,omitempty"`
	Unreadable string `json:"unreadable,omitempty"`
}

// Verifier answers requests.
type Verifier interface {
	Verify(context.Context, *Request) (Answer, error)
}

// Program is the Verifier that runs berth-verify for each request: what reads
// certificates and signatures of strangers is no part of the daemon, takes no memory
// of it, and has neither its rights nor a network.
type Program struct {
	Path string
	User uint32 // it becomes; 0: it stays the caller's
}

// verifyTimeout bounds one run: a signature takes a millisecond.
const verifyTimeout = 30 * time.Second

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 64 << 10

// Verify implements Verifier.
func (p Program) Verify(ctx context.Context, r *Request) (Answer, error) {
	in, err := json.Marshal(r)
	if err != nil {
		return Answer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.Path)
	if p.User != 0 {
		cmd.Args = append(cmd.Args, strconv.FormatUint(uint64(p.User), 10))
	}
	cmd.Stdin, cmd.Env, cmd.Dir = bytes.NewReader(in), []string{}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWNET}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags = 0
	}
	var out bounded
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		return Answer{}, api.E("verify signature", api.Internal, p.Path, err)
	}
	var a Answer
	if err := json.Unmarshal(out.Bytes(), &a); err != nil {
		return a, api.E("verify signature", api.Internal, p.Path, fmt.Errorf("its answer: %w", err))
	}
	return a, nil
}

// bounded is a buffer that takes no more than maxAnswer.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxAnswer {
		return 0, errors.New("the answer is too long")
	}
	return b.Buffer.Write(p)
}

// Serve answers one request from r to w: it is what berth-verify does.
func Serve(r io.Reader, w io.Writer, verify func(*Request) Answer) error {
	var q Request
	if err := json.NewDecoder(r).Decode(&q); err != nil {
		return err
	}
	return json.NewEncoder(w).Encode(verify(&q))
}
