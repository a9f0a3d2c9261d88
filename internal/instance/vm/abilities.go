package vm

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/agent"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/keeper"
)

// dialAgent returns a client that is shared by the calls in flight and closed
// after the last: QEMU serves one connection to the port at a time, and
// another berthd may want it.
func (h *handle) dialAgent(ctx context.Context) (*agent.Client, func(), error) {
	if err := h.awaitSettled(ctx); err != nil {
		return nil, nil, err
	}
	return h.connectAgent(ctx)
}

// connectAgent is dialAgent of a guest that need not have settled.
func (h *handle) connectAgent(ctx context.Context) (*agent.Client, func(), error) {
	select {
	case h.greeting <- struct{}{}:
		defer func() { <-h.greeting }()
	case <-ctx.Done():
		return nil, nil, agent.Hung(ctx.Err()) // it has yet to answer another call
	}
	if client := h.use(nil); client != nil {
		return client, func() { h.release(client) }, nil
	}
	client, err := agent.Connect(ctx, func(ctx context.Context) (agent.Conn, error) {
		return keeper.Dial(ctx, h.inRun("ctl"))
	})
	if err != nil {
		return nil, nil, err
	}
	h.use(client)
	return client, func() { h.release(client) }, nil
}

// use counts one user more of a new client, or, without one, of that which is there and
// has not failed; nil where there is none.
func (h *handle) use(client *agent.Client) *agent.Client {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case client != nil:
		h.client, h.users = client, 0
	case h.client == nil || h.client.Err() != nil:
		return nil
	}
	h.users++
	return h.client
}

func (h *handle) release(client *agent.Client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.client != client {
		return // replaced after a failure
	}
	if h.users--; h.users == 0 {
		go h.leave(client)
	}
}

// leave closes a client, unless another call takes it meanwhile, or the machine is held:
// what its guest still has to say would then come while nobody listens (agent.Connect).
func (h *handle) leave(client *agent.Client) {
	ctx, cancel := context.WithTimeout(context.Background(), signalTimeout)
	defer cancel()
	_ = client.Settle(ctx) // a guest that does not answer has the next greeting's retry
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.client == client && h.users == 0 && !isHeld(h.p.RunDir) {
		client.Close()
		h.client = nil
	}
}

// withAgent makes a call.
func (h *handle) withAgent(ctx context.Context, call func(*agent.Client) error) error {
	greet, cancel := context.WithTimeout(ctx, monitorTimeout)
	defer cancel()
	client, release, err := h.dialAgent(greet)
	if err != nil {
		return err
	}
	defer release()
	return call(client)
}

// Exec runs a command beside the entrypoint.
func (h *handle) Exec(ctx context.Context, x api.Exec, s instance.Streams) (api.Exit, error) {
	return h.exec(ctx, x, s, false)
}

// exec runs a command; alone says that what it leaves running ends with it.
func (h *handle) exec(ctx context.Context, x api.Exec, s instance.Streams, alone bool) (api.Exit, error) {
	if len(x.Command) == 0 {
		return api.Exit{}, api.E("exec", api.Invalid, h.p.Spec.Name, errors.New("no command"))
	}
	request := agent.Exec{
		Process: agent.Process{Args: x.Command, Env: x.Env, User: x.User, Dir: x.WorkingDir},
		TTY:     x.TTY, Stdin: x.Stdin && s.Stdin != nil, Size: agent.Size(x.Size), Alone: alone,
	}
	streams := agent.Streams{Stdin: s.Stdin, Stdout: s.Stdout, Stderr: s.Stderr}
	if s.Resize != nil {
		sizes := make(chan agent.Size)
		stop := make(chan struct{})
		defer close(stop)
		go convertSizes(s.Resize, sizes, stop)
		streams.Resize = sizes
	}
	var exit agent.Exit
	err := h.withGuest(ctx, func(c *agent.Client) (err error) {
		exit, err = c.Exec(ctx, request, streams)
		return err
	})
	if err != nil {
		return api.Exit{}, h.fail("exec", err)
	}
	return api.Exit{Code: exit.Code & 0xff, OOM: exit.OOM, Error: api.OneLine(exit.Error), Time: time.Now()}, nil
}

func convertSizes(from <-chan api.Size, to chan<- agent.Size, stop <-chan struct{}) {
	for {
		select {
		case size, open := <-from:
			if !open {
				return
			}
			select {
			case to <- agent.Size(size):
			case <-stop:
				return
			}
		case <-stop:
			return
		}
	}
}

// Attach connects to the entrypoint's streams.
func (h *handle) Attach(ctx context.Context, s instance.Streams, ready func()) error {
	a, err := h.driver.cfg.Keeper.Attach(ctx, h.p.ID, keeper.AttachOptions{
		Stdin: s.Stdin != nil, Stdout: s.Stdout != nil, Stderr: s.Stderr != nil, Wait: true,
	})
	if err != nil {
		return h.fail("attach", err)
	}
	defer a.Close()
	if ready != nil {
		ready()
	}
	if s.Stdin != nil {
		// A blocked reader is left behind; its next write finds the
		// attachment closed.
		go func() {
			if _, err := io.Copy(a, s.Stdin); err == nil {
				_ = a.CloseStdin()
			}
		}()
	}
	stop := make(chan struct{})
	defer close(stop)
	if s.Resize != nil {
		go h.forwardSizes(ctx, s.Resize, stop)
	}
	_, err = a.Copy(ctx, s.Stdout, s.Stderr)
	if ctx.Err() != nil {
		return nil // the client has detached
	}
	return h.fail("attach", err)
}

// forwardSizes passes the terminal's sizes to the guest. A size that is lost
// because the guest is not up yet comes again with the next.
func (h *handle) forwardSizes(ctx context.Context, sizes <-chan api.Size, stop <-chan struct{}) {
	for {
		select {
		case size, open := <-sizes:
			if !open {
				return
			}
			_ = h.withAgent(ctx, func(c *agent.Client) error { return c.Resize(ctx, agent.Size(size)) })
		case <-stop:
			return
		}
	}
}

// Pause freezes the guest's processors. A copy of what stands still may have to become
// another machine, so its agent holds all else before, if it answers.
func (h *handle) Pause(ctx context.Context) error {
	if err := h.awaitSettled(ctx); err != nil {
		return h.fail("pause", err)
	}
	m, err := h.monitor(ctx)
	if err != nil {
		return h.fail("pause", err)
	}
	defer m.Close()
	short, cancel := context.WithTimeout(ctx, pauseTimeout)
	_ = h.hold(short)
	cancel()
	return h.fail("pause", m.Stop(ctx))
}

// clockTimeout bounds the setting of the clock after a pause: a guest that hung
// before goes on hanging.
const clockTimeout = 3 * time.Second

// Unpause lets them go on, and tells the guest what time it is meanwhile.
func (h *handle) Unpause(ctx context.Context) error {
	m, err := h.monitor(ctx)
	if err != nil {
		return h.fail("unpause", err)
	}
	defer m.Close()
	if err := m.Cont(ctx); err != nil {
		return h.fail("unpause", err)
	}
	return h.fail("unpause", h.unhold(context.WithoutCancel(ctx), setClock))
}

// Stats measures the guest, and what it costs the host.
func (h *handle) Stats(ctx context.Context) (api.Stats, error) {
	g, err := h.guestStats(ctx)
	if err != nil {
		return api.Stats{}, h.fail("stats", err)
	}
	s := api.Stats{
		ID: h.p.ID, Name: h.p.Spec.Name, Time: time.Now(),
		CPU: api.Duration(g.CPU), Memory: g.Memory, MemoryLimit: g.MemoryTotal, PIDs: g.PIDs,
		NetRx: g.NetRx, NetTx: g.NetTx, DiskRead: g.DiskRead, DiskWrite: g.DiskWrite,
	}
	group, err := h.group(nil)
	if err != nil || group == nil {
		return s, h.fail("stats", err)
	}
	host, err := group.Stats()
	if err != nil {
		return s, h.fail("stats", err)
	}
	s.HostMemory = int64(host.MemoryStats.Usage.Usage)
	s.HostCPU = api.Duration(host.CpuStats.CpuUsage.TotalUsage)
	return s, nil
}

// Top lists the guest's processes.
func (h *handle) Top(ctx context.Context) (api.Top, error) {
	var list []agent.Proc
	err := h.withGuest(ctx, func(c *agent.Client) (err error) {
		list, err = c.Top(ctx)
		return err
	})
	var top api.Top
	for _, p := range list {
		top.Processes = append(top.Processes, api.Process{PID: p.PID, PPID: p.PPID, User: p.User(),
			State: api.OneLine(p.State), Memory: p.Memory, Command: api.OneLine(p.Command)})
	}
	return top, h.fail("top", err)
}

// CopyIn unpacks a tar stream into a directory of the guest.
func (h *handle) CopyIn(ctx context.Context, dir string, tar io.Reader) error {
	return h.fail("copy", h.withGuest(ctx, func(c *agent.Client) error { return c.CopyIn(ctx, dir, tar) }))
}

// CopyOut packs a file or directory of the guest.
func (h *handle) CopyOut(ctx context.Context, path string, tar io.Writer) error {
	return h.fail("copy", h.withGuest(ctx, func(c *agent.Client) error { return c.CopyOut(ctx, path, tar) }))
}
