package client

import (
	"context"
	"errors"
	"time"

	"github.com/berthcloud/berth/api"
)

// OperationRequest starts one operation; exactly one field is set.
type OperationRequest struct {
	Pull      *PullRequest      `json:"pull,omitempty"`
	Push      *PushRequest      `json:"push,omitempty"`
	Bootstrap *BootstrapRequest `json:"bootstrap,omitempty"`
	Kernel    *KernelRequest    `json:"kernel,omitempty"`
	Base      *BaseRequest      `json:"base,omitempty"`
	Import    *ImportRequest    `json:"import,omitempty"`
	Commit    *CommitRequest    `json:"commit,omitempty"`
	Convert   *ConvertRequest   `json:"convert,omitempty"`
	Check     *CheckRequest     `json:"check,omitempty"`
}

// PullRequest fetches an image from a registry.
type PullRequest struct {
	Image    string `json:"image"`
	Platform string `json:"platform,omitempty"` // as in linux/arm64; default the host's
	Insecure bool   `json:"insecure,omitempty"` // plain HTTP, or a certificate nobody vouches for
	Lazy     bool   `json:"lazy,omitempty"`     // be done once it can be used, where that can be before it has arrived
}

// PushRequest puts an image into the registry in its name.
type PushRequest struct {
	Image             string `json:"image"`
	Insecure          bool   `json:"insecure,omitempty"`           // plain HTTP, or a certificate nobody vouches for
	CompressionFormat string `json:"compression_format,omitempty"` // of layers: gzip or zstd; default as they are
	CompressionLevel  int    `json:"compression_level,omitempty"`  // default the format's usual one
}

// CheckRequest reads all images. The operation fails, with an error of kind Corrupt, while
// something is broken.
type CheckRequest struct {
	Repair   bool `json:"repair,omitempty"`   // fetch or make anew what is broken
	Insecure bool `json:"insecure,omitempty"` // over plain HTTP, or with a certificate nobody vouches for, too
}

// BootstrapRequest makes an image from a distribution's packages.
type BootstrapRequest struct {
	Name string `json:"name"`           // as in debian:12
	Disk bool   `json:"disk,omitempty"` // one that holds a VM's disk

	Tag     string   `json:"tag,omitempty"`     // what to call it; "" for Name
	Include []string `json:"include,omitempty"` // packages beyond those of Name
}

// KernelRequest makes a guest kernel from the distribution's packages.
type KernelRequest struct {
	Flavor   string `json:"flavor"`             // cloud or standard
	Platform string `json:"platform,omitempty"` // as in linux/arm64; default the host's
}

// BaseRequest makes the tiny image "base" from busybox.
type BaseRequest struct {
	Platform string `json:"platform,omitempty"` // as in linux/arm64; default the host's
}

// ImportRequest reads an archive or OCI layout on the daemon's side.
type ImportRequest struct {
	Name string `json:"name,omitempty"`
	Path string `json:"path"`
}

// CommitRequest makes an image of what an instance has changed in its root filesystem.
type CommitRequest struct {
	Instance string `json:"instance"`
	Image    string `json:"image"` // what to call it
	Author   string `json:"author,omitempty"`
	Message  string `json:"message,omitempty"`
}

// ConvertRequest makes the disk of a machine of a root filesystem, or the other way round.
type ConvertRequest struct {
	Image string `json:"image"`
	Name  string `json:"name"`           // of what is made
	To    string `json:"to,omitempty"`   // disk or rootfs; "" for what the image is not
	Size  int64  `json:"size,omitempty"` // of a disk, in bytes; 0 for what it takes

	// Init says what a disk starts: the image's command (none) or its init (system);
	// "" for what the image is made for.
	Init api.InitMode `json:"init,omitempty"`
}

// StartOperation starts an operation and returns at once.
func (c *Client) StartOperation(ctx context.Context, r OperationRequest) (api.Operation, error) {
	return call[api.Operation](ctx, c, request{method: "POST", path: "/v1/operations", body: r})
}

// Operations returns the operations that run, and those that ended lately.
func (c *Client) Operations(ctx context.Context) ([]api.Operation, error) {
	return get[[]api.Operation](ctx, c, nil, "operations")
}

// Operation returns one operation.
func (c *Client) Operation(ctx context.Context, id string) (api.Operation, error) {
	return get[api.Operation](ctx, c, nil, "operations", id)
}

// CancelOperation asks an operation to end early and leave nothing behind.
func (c *Client) CancelOperation(ctx context.Context, id string) error {
	path, err := at("operations", id)
	if err != nil {
		return err
	}
	return c.send(ctx, request{method: "DELETE", path: path})
}

// WatchOperation hands each state of an operation to f until it is done.
func (c *Client) WatchOperation(ctx context.Context, id string, f func(api.Operation) error) error {
	path, err := at("operations", id, "watch")
	if err != nil {
		return err
	}
	return lines(ctx, c, request{method: "GET", path: path}, f)
}

// cancelGrace bounds how long Run waits for a canceled operation to be
// acknowledged.
const cancelGrace = 5 * time.Second

// Run starts an operation, hands each state of it to f (which may be nil) and
// returns its last state, or its error. Where ctx ends first, the operation is
// canceled.
func (c *Client) Run(ctx context.Context, r OperationRequest, f func(api.Operation) error) (api.Operation, error) {
	op, err := c.StartOperation(ctx, r)
	if err != nil {
		return op, err
	}
	path, err := at("operations", op.ID, "watch")
	if err != nil {
		return op, err
	}
	last, err := finish(ctx, c, request{method: "GET", path: path}, f)
	if ctx.Err() != nil {
		cancel, done := context.WithTimeout(context.WithoutCancel(ctx), cancelGrace)
		defer done()
		err = errors.Join(err, c.CancelOperation(cancel, op.ID))
	}
	return last, err
}

// finish reads a stream of an operation's states to its end.
func finish(ctx context.Context, c *Client, r request, f func(api.Operation) error) (api.Operation, error) {
	var last api.Operation
	err := lines(ctx, c, r, func(op api.Operation) error {
		last = op
		if f == nil {
			return nil
		}
		return f(op)
	})
	switch {
	case err != nil:
		return last, err
	case last.Error != nil:
		return last, last.Error.Err()
	case !last.Done:
		return last, &api.Error{Kind: api.Unavailable, Err: errors.New("berthd ended before the operation did; start berthd and try again")}
	}
	return last, nil
}
