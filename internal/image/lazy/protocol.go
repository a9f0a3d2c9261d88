// Package lazy shows the EROFS images of layers before these have arrived. The image of an
// eStargz layer can be outlined from the layer's table of contents alone (package layer);
// what its files hold is fetched where somebody reads it, and the rest behind.
//
//	kernel: EROFS mount ─┐
//	QEMU: read-only disk ─┴▶ RUN/lazy/ID-N/HEX, a file of FUSE
//	                              │ berth-lazy (package server)
//	                              ├▶ its outline, where there is no content
//	                              └▶ ROOT/lazy/ID/HEX, the layer as distributed, with holes
//	                                     └◀ the registry, in parts
//
// A server, the program berth-lazy, serves the layers of one pull. It outlives berthd, as
// what reads from it does, and ends when nothing is mounted of it any more. It is given
// everything by descriptors, and has no other rights than a network. What it has fetched
// is checked against the table of contents whenever it is shown, and that against the
// image's manifest; nothing that a registry says is shown unchecked. A layer that has
// arrived is read into the image store by berthd, which checks its digest.
package lazy

import (
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image/layer"
)

// TOCAnnotation is, of a layer in a manifest, the digest of its table of contents in JSON
// (stargz-snapshotter, docs/estargz.md).
const TOCAnnotation = "containerd.io/snapshot/stargz/toc.digest"

// Layer is a layer to serve.
type Layer struct {
	Digest digest.Digest `json:"digest"` // as distributed
	Size   int64         `json:"size"`   // bytes as distributed
	Type   string        `json:"type"`   // its media type
	TOC    digest.Digest `json:"toc"`    // as TOCAnnotation has it
}

// Credential is what a registry's host is told. An empty User with a Secret is an
// identity token.
type Credential struct {
	User   string `json:"user,omitempty"`
	Secret string `json:"secret,omitempty"`
}

// Request is what a server reads from its standard input. Its descriptor 3 is that of the
// FUSE filesystem, mounted; then each layer has two: the file that takes the layer, and an
// empty one for its outline.
type Request struct {
	User          int                   `json:"user,omitempty"` // it becomes, 0: it stays its caller's
	Ref           string                `json:"ref"`            // full, as in docker.io/library/debian:12
	Layers        []Layer               `json:"layers"`
	Limits        layer.Limits          `json:"limits"`
	Insecure      bool                  `json:"insecure,omitempty"`
	InsecureHosts []string              `json:"insecure_hosts,omitempty"`
	Hosts         string                `json:"hosts,omitempty"`
	Stall         time.Duration         `json:"stall"`
	Credentials   map[string]Credential `json:"credentials,omitempty"` // by host
}

// Answer is the line that a server writes to its standard output when it serves, or
// cannot.
type Answer struct {
	Kind  api.ErrorKind `json:"kind,omitempty"`
	Error string        `json:"error,omitempty"`
}

// StatusFile is the file beside the layers whose content is a Status in JSON.
const StatusFile = "status"

// EndFile is the file beside the layers whose opening ends the server, once no layer is
// open. It would end as well when nothing is mounted of it any more, but a mount
// namespace that somebody made meanwhile has copies of all mounts.
const EndFile = "end"

// Status is how far layers have come, in the order of the request.
type Status struct {
	Open   int           `json:"open"` // how often somebody has one of them open
	Layers []LayerStatus `json:"layers"`
}

// LayerStatus is how far one layer has come.
type LayerStatus struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`            // bytes of the layer
	Here   int64         `json:"here"`            // of which so many have arrived
	Whole  bool          `json:"whole"`           // that is all, as far as the server knows
	Error  string        `json:"error,omitempty"` // why no more do, while that lasts
}
