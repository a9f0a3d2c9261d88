package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// maxLine bounds one line of QMP, in bytes. A guest that has taken over its
// QEMU can write anything here.
const maxLine = 1 << 20

// Monitor is a connection to QEMU's machine protocol (QMP; docs/interop/qmp-spec.txt
// of QEMU): one JSON object a line, each command answered in order.
//
//	QEMU                                   Monitor
//	  │── {"QMP": {...}} ────────────────▶ │
//	  │ ◀───────────── qmp_capabilities ── │
//	  │── {"return": {}} ────────────────▶ │
//	  │ ◀───── {"execute": …, "id": n} ─── │
//	  │── {"event": …} ──────────────────▶ │  at any time
//	  │── {"return"|"error": …, "id": n} ▶ │
//
// QEMU serves one connection at a time, so a Monitor is opened for a purpose
// and closed after it. Methods may be called concurrently; commands then go one
// after the other.
type Monitor struct {
	conn  net.Conn
	lines *bufio.Reader

	mu     sync.Mutex // one command at a time
	id     int
	stream string // what QEMU has said last of a stream of the machine's state
}

// QMPError is QEMU's own answer that a command failed.
type QMPError struct {
	Command string
	Class   string
	Desc    string
}

// Error returns QEMU's text.
func (e *QMPError) Error() string { return "QEMU refuses " + e.Command + ": " + e.Desc }

// message is any line that QEMU sends.
type message struct {
	QMP    json.RawMessage `json:"QMP"`
	Event  string          `json:"event"`
	Data   json.RawMessage `json:"data"` // of an event
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	ID *int `json:"id"`
}

// Dial connects to the monitor on the unix socket at path.
func Dial(ctx context.Context, path string) (*Monitor, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connect to QEMU: %w", err)
	}
	return newMonitor(ctx, conn)
}

// newMonitor negotiates on a connection, which it closes on failure.
func newMonitor(ctx context.Context, conn net.Conn) (*Monitor, error) {
	m := &Monitor{conn: conn, lines: bufio.NewReaderSize(conn, 4096)}
	defer m.bound(ctx)()
	greeting, err := m.read()
	if err == nil && greeting.QMP == nil {
		err = errors.New("no QMP greeting")
	}
	if err == nil {
		err = m.execute("qmp_capabilities", nil, nil, m.write)
	}
	if err != nil {
		conn.Close()
		return nil, contextError(ctx, fmt.Errorf("QEMU's monitor: %w", err))
	}
	return m, nil
}

// Close closes the connection. The machine goes on.
func (m *Monitor) Close() error { return m.conn.Close() }

// Execute runs a command and waits for its answer. Arguments are encoded as
// JSON; nil means none. The answer is decoded into result where that is not
// nil. An end of ctx ends the wait and makes the Monitor unusable, because an
// answer would be left on the way.
func (m *Monitor) Execute(ctx context.Context, command string, arguments, result any) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.bound(ctx)()
	return contextError(ctx, m.execute(command, arguments, result, m.write))
}

// bound makes the end of ctx end reads and writes until the returned function
// is called.
func (m *Monitor) bound(ctx context.Context) func() {
	stop := context.AfterFunc(ctx, func() { m.conn.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

func contextError(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (m *Monitor) write(line []byte) error {
	_, err := m.conn.Write(line)
	return err
}

// execute sends a command by write and waits for its answer.
func (m *Monitor) execute(command string, arguments, result any, write func([]byte) error) error {
	m.id++
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        int    `json:"id"`
	}{command, arguments, m.id})
	if err != nil {
		return err
	}
	if err := write(append(line, '\n')); err != nil {
		return err
	}
	for {
		answer, err := m.read()
		switch {
		case err != nil:
			return err
		case answer.ID == nil || *answer.ID != m.id:
			continue // an event
		case answer.Error != nil:
			return &QMPError{Command: command, Class: answer.Error.Class, Desc: answer.Error.Desc}
		case answer.Return == nil:
			return fmt.Errorf("QEMU answered %s with neither a result nor an error", command)
		case result == nil:
			return nil
		}
		if err := json.Unmarshal(answer.Return, result); err != nil {
			return fmt.Errorf("QEMU's answer to %s: %w", command, err)
		}
		return nil
	}
}

// read returns the next line.
func (m *Monitor) read() (message, error) {
	var msg message
	line, err := readLine(m.lines, maxLine)
	if err != nil {
		return msg, err
	}
	if err := json.Unmarshal(line, &msg); err != nil {
		return msg, fmt.Errorf("QEMU sent no QMP: %w", err)
	}
	if Event(msg.Event) == eventMigration {
		var told migration
		if err := json.Unmarshal(msg.Data, &told); err != nil {
			return msg, fmt.Errorf("QEMU's event %s: %w", msg.Event, err)
		}
		m.stream = told.Status
	}
	return msg, nil
}

// readLine reads up to a line break, at most limit bytes.
func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > limit:
			return nil, fmt.Errorf("QEMU sent a line of more than %d bytes", limit)
		case err == nil:
			return line, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// RunState is QEMU's word for where a machine stands (run-state.json).
type RunState string

// The run states Berth acts on.
const (
	StateRunning   RunState = "running"
	StatePaused    RunState = "paused"    // by stop
	StatePrelaunch RunState = "prelaunch" // by -S, before the first cont
	StateIOError   RunState = "io-error"  // a disk of the host failed or is full
	StatePanicked  RunState = "guest-panicked"
	StateWatchdog  RunState = "watchdog"
	StateIncoming  RunState = "inmigrate" // nothing is loaded yet that it could go on from
)

// Status returns the machine's run state.
func (m *Monitor) Status(ctx context.Context) (RunState, error) {
	var s struct {
		Status RunState `json:"status"`
	}
	err := m.Execute(ctx, "query-status", nil, &s)
	return s.Status, err
}

// Stop freezes the machine's processors; Cont lets them go.
func (m *Monitor) Stop(ctx context.Context) error { return m.Execute(ctx, "stop", nil, nil) }

// Cont lets the machine's processors go.
func (m *Monitor) Cont(ctx context.Context) error { return m.Execute(ctx, "cont", nil, nil) }

// PowerButton presses the machine's power button: a guest that minds it shuts down
// in its own time.
func (m *Monitor) PowerButton(ctx context.Context) error {
	return m.Execute(ctx, "system_powerdown", nil, nil)
}

// Quit ends QEMU at once, as if the power failed. QEMU may close the
// connection before it answers; that is a success.
func (m *Monitor) Quit(ctx context.Context) error {
	err := m.Execute(ctx, "quit", nil, nil)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// Balloon sets how much memory the guest should have, in bytes. The guest's
// driver gets there in its own time.
func (m *Monitor) Balloon(ctx context.Context, size int64) error {
	return m.Execute(ctx, "balloon", map[string]int64{"value": size}, nil)
}
