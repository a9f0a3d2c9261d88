package client

import (
	"context"
	"io"
	"strconv"
	"time"

	"github.com/berthcloud/berth/api"
)

// StopOptions says how Stop and Restart end an instance. Zero values stand
// for the instance's own signal and grace.
type StopOptions struct {
	Signal  string         // a name or number, as in SIGTERM, TERM, 15
	Timeout *time.Duration // grace before SIGKILL
}

// ListOptions narrows List. Filters with one key are alternatives; keys must
// all match. The keys are name, id, label, status, kind and image.
type ListOptions struct {
	All     bool // also what does not run
	Filters map[string][]string
}

// RemoveOptions says what Remove may do.
type RemoveOptions struct {
	Force   bool // end what still runs
	Volumes bool // remove unnamed volumes too
}

// Changes are what Update can change; nil fields stay as they are.
type Changes struct {
	Limits  *api.Limits        `json:"limits,omitempty"`
	Restart *api.RestartPolicy `json:"restart,omitempty"`
}

// LogOptions says which lines Logs returns.
type LogOptions struct {
	Follow       bool
	Since, Until time.Time // zero for no bound
	Tail         int       // the last so many lines; -1 for all
}

// Create makes an instance and leaves it stopped.
func (c *Client) Create(ctx context.Context, spec api.Spec) (api.Instance, error) {
	return call[api.Instance](ctx, c, request{method: "POST", path: "/v1/instances", body: spec})
}

// RunDetached makes an instance and starts it. Where the start fails, nothing is left of it.
func (c *Client) RunDetached(ctx context.Context, spec api.Spec) (api.Instance, error) {
	return call[api.Instance](ctx, c, request{method: "POST", path: "/v1/instances", query: query("start", flag(true)), body: spec})
}

// Start starts an instance. One that runs already is a success.
func (c *Client) Start(ctx context.Context, ref string) (api.Instance, error) {
	path, err := at("instances", ref, "start")
	if err != nil {
		return api.Instance{}, err
	}
	return call[api.Instance](ctx, c, request{method: "POST", path: path})
}

// act does a POST on an instance that has no answer.
func (c *Client) act(ctx context.Context, ref, verb string, pairs ...string) error {
	path, err := at("instances", ref, verb)
	if err != nil {
		return err
	}
	return c.send(ctx, request{method: "POST", path: path, query: query(pairs...)})
}

// pairs writes the options as a query.
func (o StopOptions) pairs() []string {
	p := []string{"signal", o.Signal}
	if o.Timeout != nil {
		p = append(p, "timeout", o.Timeout.String())
	}
	return p
}

// Stop asks an instance to end, and ends it by force after the grace. It
// returns once the instance has ended.
func (c *Client) Stop(ctx context.Context, ref string, o StopOptions) error {
	return c.act(ctx, ref, "stop", o.pairs()...)
}

// Restart stops an instance and starts it again.
func (c *Client) Restart(ctx context.Context, ref string, o StopOptions) error {
	return c.act(ctx, ref, "restart", o.pairs()...)
}

// Kill sends a signal to an instance's entrypoint; "" stands for SIGKILL.
func (c *Client) Kill(ctx context.Context, ref, signal string) error {
	return c.act(ctx, ref, "kill", "signal", signal)
}

// Pause freezes an instance in memory.
func (c *Client) Pause(ctx context.Context, ref string) error { return c.act(ctx, ref, "pause") }

// Unpause thaws a paused instance.
func (c *Client) Unpause(ctx context.Context, ref string) error { return c.act(ctx, ref, "unpause") }

// Suspend saves a VM to disk and takes its memory back.
func (c *Client) Suspend(ctx context.Context, ref string) error { return c.act(ctx, ref, "suspend") }

// Resume lets a suspended VM go on from where it was saved.
func (c *Client) Resume(ctx context.Context, ref string) (api.Instance, error) {
	path, err := at("instances", ref, "resume")
	if err != nil {
		return api.Instance{}, err
	}
	return call[api.Instance](ctx, c, request{method: "POST", path: path})
}

// Rename gives an instance another name.
func (c *Client) Rename(ctx context.Context, ref, name string) error {
	return c.act(ctx, ref, "rename", "name", name)
}

// Remove deletes an instance with its writable layer and log.
func (c *Client) Remove(ctx context.Context, ref string, o RemoveOptions) error {
	path, err := at("instances", ref)
	if err != nil {
		return err
	}
	q := query("force", flag(o.Force), "volumes", flag(o.Volumes))
	return c.send(ctx, request{method: "DELETE", path: path, query: q})
}

// Update changes limits and restart policy, live where the instance runs.
func (c *Client) Update(ctx context.Context, ref string, ch Changes) (api.Instance, error) {
	path, err := at("instances", ref)
	if err != nil {
		return api.Instance{}, err
	}
	return call[api.Instance](ctx, c, request{method: "PATCH", path: path, body: ch})
}

// get does a GET on an instance whose answer is one value.
func get[T any](ctx context.Context, c *Client, pairs []string, elements ...string) (T, error) {
	path, err := at(elements...)
	if err != nil {
		var none T
		return none, err
	}
	return call[T](ctx, c, request{method: "GET", path: path, query: query(pairs...)})
}

// Get returns an instance.
func (c *Client) Get(ctx context.Context, ref string) (api.Instance, error) {
	return get[api.Instance](ctx, c, nil, "instances", ref)
}

// Explain says what was decided for a VM, why, and what else there is.
func (c *Client) Explain(ctx context.Context, ref string) (api.Explanation, error) {
	return get[api.Explanation](ctx, c, nil, "instances", ref, "explanation")
}

// VNCAccess returns what a VNC client of a VM has to know.
func (c *Client) VNCAccess(ctx context.Context, ref string) (api.VNCAccess, error) {
	return get[api.VNCAccess](ctx, c, nil, "instances", ref, "vnc", "access")
}

// maxImage bounds a screenshot, in bytes.
const maxImage = 64 << 20

// Screenshot returns what the display of a VM shows, as a PNG image.
func (c *Client) Screenshot(ctx context.Context, ref string) ([]byte, error) {
	path, err := at("instances", ref, "screenshot")
	if err != nil {
		return nil, err
	}
	res, err := c.do(ctx, request{method: "GET", path: path})
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	image, err := io.ReadAll(io.LimitReader(res.Body, maxImage))
	if err != nil {
		return nil, c.transportError(ctx, err)
	}
	return image, nil
}

// List returns instances, newest first.
func (c *Client) List(ctx context.Context, o ListOptions) ([]api.Instance, error) {
	q := query("all", flag(o.All))
	addFilters(q, o.Filters)
	return call[[]api.Instance](ctx, c, request{method: "GET", path: "/v1/instances", query: q})
}

// Wait waits for a condition: "" for not running, "next-exit", "removed".
func (c *Client) Wait(ctx context.Context, ref, condition string) (api.Exit, error) {
	return get[api.Exit](ctx, c, []string{"condition", condition}, "instances", ref, "wait")
}

// Stats measures a running instance once.
func (c *Client) Stats(ctx context.Context, ref string) (api.Stats, error) {
	return get[api.Stats](ctx, c, nil, "instances", ref, "stats")
}

// Diff returns what an instance has changed in its root filesystem.
func (c *Client) Diff(ctx context.Context, ref string) ([]api.Change, error) {
	return get[[]api.Change](ctx, c, nil, "instances", ref, "changes")
}

// Top lists the processes of a running instance.
func (c *Client) Top(ctx context.Context, ref string) (api.Top, error) {
	return get[api.Top](ctx, c, nil, "instances", ref, "top")
}

// Logs hands the lines an instance wrote to f, oldest first.
func (c *Client) Logs(ctx context.Context, ref string, o LogOptions, f func(api.LogLine) error) error {
	path, err := at("instances", ref, "logs")
	if err != nil {
		return err
	}
	q := query("follow", flag(o.Follow), "since", stamp(o.Since), "until", stamp(o.Until), "tail", strconv.Itoa(o.Tail))
	return lines(ctx, c, request{method: "GET", path: path, query: q}, f)
}

// CopyIn unpacks a tar stream into the existing directory dir of an instance.
func (c *Client) CopyIn(ctx context.Context, ref, dir string, tar io.Reader) error {
	path, err := at("instances", ref, "files")
	if err != nil {
		return err
	}
	return c.send(ctx, request{method: "PUT", path: path, query: query("path", dir), body: tar})
}

// CopyOut packs a file or directory of an instance as a tar stream whose
// names begin with the last element of its path.
func (c *Client) CopyOut(ctx context.Context, ref, from string, tar io.Writer) error {
	path, err := at("instances", ref, "files")
	if err != nil {
		return err
	}
	return c.tar(ctx, request{method: "GET", path: path, query: query("path", from)}, tar)
}
