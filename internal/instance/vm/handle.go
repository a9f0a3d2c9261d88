package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/agent"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/keeper"
	"github.com/berthcloud/berth/internal/qemu"
)

const sigKill = unix.SIGKILL

const (
	// bootTimeout bounds the time from the first instruction to the agent's
	// answer. Emulated on a busy host a boot takes seconds, never minutes.
	bootTimeout = 2 * time.Minute
	// monitorTimeout bounds a QMP command: QEMU answers at once or hangs.
	monitorTimeout = 10 * time.Second
	// signalTimeout bounds a signal by way of the agent. A guest that takes
	// longer is ended from outside where the signal is SIGKILL.
	signalTimeout = 3 * time.Second
	// crashCode is the exit code of a guest that crashed and so has none.
	crashCode = agent.CodeFault
)

// handle is one run.
type handle struct {
	driver *Driver
	p      *instance.Prepared
	run    runFile

	greeting  chan struct{} // holds a value while a call waits for the guest's agent to greet
	insisting atomic.Bool   // the guest is told to go on until it answers

	mu      sync.Mutex // guards what follows
	client  *agent.Client
	users   int           // calls in flight on client
	settled chan struct{} // closed when what follows a resume is done; nil where there was none
}

func (d *Driver) handle(p *instance.Prepared, run runFile) *handle {
	return &handle{driver: d, p: p, run: run, greeting: make(chan struct{}, 1)}
}

func (h *handle) inRun(name string) string { return filepath.Join(h.p.RunDir, name) }

// exitPath is a file of the disk, not of /run, which is memory: a guest can
// write to it as much as to its own disk.
func exitPath(p *instance.Prepared) string { return filepath.Join(p.Dir, "exit") }

// overlayPath is a file of the disk for the same reason: it takes what a guest
// writes to its disk of layers where the bus knows no read-only disk.
func overlayPath(p *instance.Prepared) string { return filepath.Join(p.Dir, "layers.qcow2") }

func (h *handle) fail(op string, err error) error { return api.E(op, "", h.p.Spec.Name, err) }

// Start lets the machine go and returns when its entrypoint runs.
func (h *handle) Start(ctx context.Context) (instance.Status, error) {
	start := h.boot
	switch {
	case h.run.Resumed:
		start = func(ctx context.Context) error { return h.fail("start", h.resume(ctx)) }
	case h.startsItself():
		start = func(ctx context.Context) error { return h.fail("start", h.letGo(ctx)) }
	}
	if err := start(ctx); err != nil {
		return instance.Status{}, err
	}
	s, err := h.kept(ctx)
	return s, h.fail("status", err)
}

// boot returns when the entrypoint runs, or has run.
func (h *handle) boot(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	if h.run.Machine.Template != "" {
		record, err := h.wake(ctx)
		if err != nil {
			return h.fail("start", err)
		}
		defer record.Close()
	}
	if err := h.letGo(ctx); err != nil {
		return h.fail("start", err)
	}
	ended := make(chan keeper.Exit, 1)
	watch, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		if exit, err := h.driver.cfg.Keeper.Wait(watch, h.p.ID); err == nil {
			ended <- exit
			stop() // no agent will answer any more
		}
	}()
	go h.watchBoot(watch)
	_, release, err := h.dialAgent(watch)
	if err == nil {
		// The calls of a step follow close on each other, by one connection: its guest may hear
		// of the end of one only when the next has begun, and would take that for over. It
		// ends with QEMU.
		if !h.p.Step {
			release()
		}
		return nil
	}
	// The entrypoint may have ended before the agent could answer; the
	// connection breaks a moment before QEMU has ended.
	var exit keeper.Exit
	if api.IsKind(err, api.Unavailable) && ctx.Err() == nil {
		exit, err = h.driver.cfg.Keeper.Wait(ctx, h.p.ID)
	} else {
		select {
		case exit = <-ended:
			err = nil
		default:
		}
	}
	if err != nil {
		return h.fail("start", err)
	}
	return h.fail("start", h.startError(exit))
}

// letGo has QEMU's processor run its first instruction.
func (h *handle) letGo(ctx context.Context) error {
	m, err := h.monitor(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	if err := h.guardDisplay(ctx, m); err != nil {
		return err
	}
	if err := h.growOverlay(ctx, m); err != nil {
		return err
	}
	if err := throttle(ctx, m, h.p.Spec.Limits); err != nil {
		return err
	}
	return m.Cont(ctx)
}

// monitor connects to QEMU. A QEMU that has just been started is waited for;
// one that has ended makes an error with its last words.
func (h *handle) monitor(ctx context.Context) (*qemu.Monitor, error) {
	ctx, cancel := context.WithTimeout(ctx, monitorTimeout)
	defer cancel()
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		m, err := qemu.Dial(ctx, h.inRun("qmp"))
		if err == nil {
			return m, nil
		}
		st, serr := h.driver.cfg.Keeper.Status(ctx, h.p.ID)
		switch {
		case serr != nil:
			return nil, serr
		case st.Exit != nil:
			return nil, h.ended(*st.Exit)
		}
		select {
		case <-ctx.Done():
			return nil, api.E("", api.Unavailable, "", fmt.Errorf("QEMU does not answer (%w): berth kill ends it", err))
		case <-time.After(wait):
		}
	}
}

// ended is the error of an operation on a run that is over.
func (h *handle) ended(exit keeper.Exit) error {
	if e := h.exitOf(exit); e.Error != "" {
		return api.E("", api.Conflict, "", errors.New(e.Error))
	}
	return api.E("", api.Conflict, "", errors.New("it has ended"))
}

// startError is why a run ended before its entrypoint ran; nil where it ran.
func (h *handle) startError(exit keeper.Exit) error {
	record := h.exitRecord()
	switch {
	case record == nil:
		return api.E("", api.Internal, "", errors.New(h.exitOf(exit).Error))
	case record.Error == "":
		return nil
	case record.Code == agent.CodeNotFound:
		return api.E("", api.NoCommand, "", errors.New(record.Error))
	case record.Code == agent.CodeNotRunnable:
		return api.E("", api.NotRunnable, "", errors.New(record.Error))
	}
	return api.E("", api.Internal, "", errors.New("the guest could not start: "+record.Error))
}

// Wait returns how the run ended.
func (h *handle) Wait(ctx context.Context) (api.Exit, error) {
	exit, err := h.driver.cfg.Keeper.Wait(ctx, h.p.ID)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return api.Exit{}, h.fail("wait", err)
	}
	return h.exitOf(exit), nil
}

// exitOf puts together what the guest said and how QEMU ended.
func (h *handle) exitOf(exit keeper.Exit) api.Exit {
	if crashed := h.crashExit(exit.Stderr, exit.Time); crashed != nil {
		return *crashed
	}
	if record := h.exitRecord(); record != nil {
		return api.Exit{Code: record.Code, OOM: record.OOM, Error: record.Error, Time: exit.Time}
	}
	if _, err := os.Stat(h.inRun("killed")); err == nil {
		return api.Exit{Code: 128 + int(sigKill), Time: exit.Time}
	}
	e := api.Exit{Code: exit.Code, OOM: exit.OOM, Time: exit.Time}
	if h.startsItself() && exit.Code == 0 && exit.Signal == 0 && exit.Unknown == "" && !exit.OOM {
		return e // it powered off
	}
	said := lastWords(exit.Stderr)
	switch {
	case exit.OOM:
		e.Error = "QEMU was killed because its cgroup's memory was used up: give the VM more memory"
	case exit.Signal != 0:
		e.Error = fmt.Sprintf("QEMU was killed by signal %d", exit.Signal)
	case exit.Unknown != "":
		e.Error = "QEMU has ended: " + exit.Unknown
	case said != "":
		e.Error = "the guest ended without an exit code; last words: " + said
	default:
		e.Error = fmt.Sprintf("the guest ended without an exit code (QEMU's was %d)", exit.Code)
	}
	if e.Code == 0 {
		e.Code = agent.CodeFault
	}
	return e
}

// panicWords are how Linux begins to tell of its panic.
const panicWords = "Kernel panic"

// lastWords is what QEMU or the guest's console said at the end: a kernel's
// panic where there is one, else the last line.
func lastWords(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	words := lines[len(lines)-1]
	for _, line := range lines {
		if at := strings.Index(line, panicWords); at >= 0 {
			words = line[at:]
			break
		}
	}
	words = api.OneLine(words)
	return words[:min(len(words), 200)]
}

// exitRecord reads what the guest wrote to its exit port; nil where it wrote
// nothing that makes sense.
func (h *handle) exitRecord() *agent.Exit {
	file, err := os.Open(exitPath(h.p))
	if err != nil {
		return nil
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, 64<<10))
	if err != nil {
		return nil
	}
	e, err := agent.ParseExit(string(data))
	if err != nil {
		return nil
	}
	e.Error = api.OneLine(e.Error)
	return &e
}

// Signal sends a signal to the entrypoint.
func (h *handle) Signal(ctx context.Context, signal int) error {
	st, err := h.driver.cfg.Keeper.Status(ctx, h.p.ID)
	if err != nil {
		return h.fail("signal", err)
	}
	if st.Exit != nil {
		return api.E("signal", api.Conflict, h.p.Spec.Name, errors.New("it has ended"))
	}
	if h.startsItself() {
		return h.fail("signal", h.signalGuest(ctx, signal))
	}
	short, cancel := context.WithTimeout(ctx, signalTimeout)
	defer cancel()
	err = h.withAgent(short, func(c *agent.Client) error { return c.Signal(short, signal) })
	if api.IsKind(err, api.Unavailable) && signal == int(sigKill) && ctx.Err() == nil {
		err = h.powerCut(ctx)
	}
	return h.fail("signal", err)
}

// powerCut ends QEMU from outside.
func (h *handle) powerCut(ctx context.Context) error {
	// The mark comes first: without it the end would look like a fault.
	err := os.WriteFile(h.inRun("killed"), nil, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		return nil // it has ended, and its run is being deleted
	} else if err != nil {
		return err
	}
	err = h.driver.cfg.Keeper.Signal(ctx, h.p.ID, sigKill)
	if api.IsKind(err, api.Conflict) {
		return nil
	}
	return err
}

// Stop asks by the signal, waits, and ends the run. A paused guest goes on, so
// that it can hear.
func (h *handle) Stop(ctx context.Context, signal int, grace time.Duration) error {
	if st, err := h.Status(ctx); err == nil && st.State == api.Paused {
		if err := h.Unpause(ctx); err != nil {
			return h.fail("stop", err)
		}
	}
	if h.startsItself() {
		return h.stopGuest(ctx, grace)
	}
	err := h.Signal(ctx, signal)
	if api.IsKind(err, api.Conflict) {
		return nil
	}
	if err == nil {
		patience, cancel := context.WithTimeout(ctx, grace)
		defer cancel()
		if _, err := h.Wait(patience); err == nil {
			return nil
		}
	}
	if ctx.Err() != nil {
		return h.fail("stop", ctx.Err())
	}
	// An entrypoint that is gone already, or an agent that does not answer, is no
	// reason to give up: the guest brings its disk to rest and powers off, and if
	// it does not, it has had its chance.
	_ = h.Signal(ctx, int(sigKill))
	patience, cancel := context.WithTimeout(ctx, monitorTimeout)
	defer cancel()
	if _, err := h.Wait(patience); err == nil {
		return nil
	}
	if err := h.powerCut(ctx); err != nil {
		return h.fail("stop", err)
	}
	_, err = h.Wait(ctx)
	return err
}

// Status observes the run now.
func (h *handle) Status(ctx context.Context) (instance.Status, error) {
	s, err := h.kept(ctx)
	if err != nil || s.State != api.Running {
		return s, h.fail("status", err)
	}
	state, err := h.runState(ctx)
	if err != nil {
		if st, serr := h.driver.cfg.Keeper.Status(ctx, h.p.ID); serr == nil && st.Exit != nil {
			return h.Status(ctx) // it has ended meanwhile, which is no notice
		}
	}
	switch {
	case broken(err): // a moment before it has ended
	case err != nil:
		s.Notice = err.Error()
	case state == qemu.StatePrelaunch || state == qemu.StateIncoming || h.sleeps():
		s.State = api.Created
	case state == qemu.StatePaused:
		s.State = api.Paused
	case state.Crashed():
		s.State, s.Notice, s.Crashed = api.Paused, h.crashNotice(state), true
	case state == qemu.StateIOError:
		s.State = api.Paused
		s.Notice = "the guest stands still because the host cannot write its disk: make room, then 'berth unpause " + h.p.Spec.Name + "'"
	}
	return s, nil
}

// kept observes the run as its keeper sees it: a QEMU that has not ended runs.
func (h *handle) kept(ctx context.Context) (instance.Status, error) {
	s := instance.Status{Machine: &h.run.Machine, Notice: h.run.Notice}
	st, err := h.driver.cfg.Keeper.Status(ctx, h.p.ID)
	if err != nil {
		return s, err
	}
	s.Created = st.Started
	switch {
	case st.Exit == nil:
		s.PID, s.State = st.PID, api.Running
	case h.exitOf(*st.Exit).Error != "":
		s.State = api.Failed
	default:
		s.State = api.Exited
	}
	return s, nil
}

// broken reports whether QEMU's end of a connection is gone.
func broken(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET)
}

// runState is where QEMU says that the machine stands.
func (h *handle) runState(ctx context.Context) (qemu.RunState, error) {
	m, err := h.monitor(ctx)
	if err != nil {
		return "", err
	}
	defer m.Close()
	return m.Status(ctx)
}

// sleeps reports whether the machine is a copy of a template, or of a saved machine,
// that was not started yet.
func (h *handle) sleeps() bool {
	_, err := os.Stat(h.inRun("woken"))
	return (h.run.Machine.Template != "" || h.run.Resumed) && err != nil
}

// Update changes the limits live.
func (h *handle) Update(ctx context.Context, l api.Limits) error {
	unsupported := func(format string, args ...any) error {
		return api.E("update", api.Unsupported, h.p.Spec.Name, fmt.Errorf(format, args...))
	}
	memory := l.Memory
	if memory == 0 {
		memory = h.run.Memory
	}
	switch {
	case memory > max(h.run.Memory, h.run.MaxMemory):
		return unsupported("a running VM on %s cannot grow beyond %d MiB of memory: stop it first%s", h.run.Machine.Type, max(h.run.Memory, h.run.MaxMemory)>>20, h.wayToGrow())
	case memory < MinMemory:
		return unsupported("a VM needs at least %d MiB of memory, not %d MiB", MinMemory>>20, memory>>20)
	case memory < h.run.Memory && h.run.Machine.Virtualization == api.VirtFull:
		return unsupported("a running VM of class full has no balloon that could take memory from it: stop it first")
	case VCPUs(l) > max(h.run.CPUs, h.run.MaxCPUs):
		return unsupported("a running VM on %s cannot get more than %d CPUs: stop it first%s", h.run.Machine.Type, max(h.run.CPUs, h.run.MaxCPUs), h.wayToGrow())
	}
	if err := h.canGrowDisk(l.Disk); err != nil {
		return api.E("update", "", h.p.Spec.Name, err)
	}
	host := h.driver.cfg.Host
	if err := undelegated(l, host); err != nil {
		return api.E("update", api.Unsupported, h.p.Spec.Name, err)
	}
	group, err := h.group(nil)
	if err == nil && group != nil {
		err = group.Update(given(resources(l, max(h.run.Memory, memory)), host))
	}
	if err == nil {
		err = h.grow(ctx, VCPUs(l), memory)
	}
	if err != nil {
		return h.fail("update", err)
	}
	if h.run.Machine.Virtualization != api.VirtFull {
		if err := h.balloon(ctx, memory); err != nil {
			return h.fail("update", err)
		}
	}
	if err := h.throttle(ctx, l); err != nil {
		return h.fail("update", err)
	}
	if l.PIDs != 0 {
		err = h.withAgent(ctx, func(c *agent.Client) error { return c.LimitPIDs(ctx, l.PIDs) })
	}
	if err == nil {
		err = h.growDisk(ctx, l.Disk)
	}
	return h.fail("update", err)
}

// throttle limits what the guest's disks may do in a second.
func (h *handle) throttle(ctx context.Context, l api.Limits) error {
	if l.DiskIOPS == (api.Rate{}) && l.DiskBandwidth == (api.Rate{}) {
		return nil
	}
	m, err := h.monitor(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	return throttle(ctx, m, l)
}

func throttle(ctx context.Context, m *qemu.Monitor, l api.Limits) error {
	if l.DiskIOPS == (api.Rate{}) && l.DiskBandwidth == (api.Rate{}) {
		return nil
	}
	return m.Throttle(ctx, qemu.Throttle{
		IOPS: max(l.DiskIOPS.Limit, 0), IOPSBurst: l.DiskIOPS.Burst,
		Bandwidth: max(l.DiskBandwidth.Limit, 0), BandwidthBurst: l.DiskBandwidth.Burst,
	})
}

// balloon sets how much memory the guest has, in bytes.
func (h *handle) balloon(ctx context.Context, memory int64) error {
	m, err := h.monitor(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	return m.Balloon(ctx, memory)
}

// Delete ends the run and takes back everything.
func (h *handle) Delete(ctx context.Context) error {
	return h.fail("delete", h.clean(ctx))
}
