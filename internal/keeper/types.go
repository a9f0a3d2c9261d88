package keeper

import (
	"fmt"
	"time"
)

// ClientBuffer is how many bytes of output may wait for one attached client.
const ClientBuffer = 256 << 10

// ConsoleKept is how many bytes of a serial console are kept at least for a client
// that attaches later.
const ConsoleKept = 32 << 10

// Mode says which process is kept.
type Mode string

// The modes of a Process.
const (
	Direct  Mode = "direct"  // the started program
	Runtime Mode = "runtime" // the process that a command line leaves behind
)

// Process describes what to start and how to keep it. Args and Env are not
// stored anywhere once the process runs.
type Process struct {
	ID   string   `json:"id"` // unique among kept processes; see ValidID
	Mode Mode     `json:"mode"`
	Args []string `json:"args,omitempty"` // Args[0] is an absolute path
	Env  []string `json:"env,omitempty"`  // complete: nothing is inherited
	Dir  string   `json:"dir,omitempty"`  // working directory; default "/"

	// PIDFile is where a Runtime command leaves the kept process's pid. The
	// keeper removes a stale one before it starts the command.
	PIDFile string `json:"pid_file,omitempty"`

	Stdio Stdio `json:"stdio"`
	Log   *Log  `json:"log,omitempty"` // nil: output goes to attached clients only

	// Cgroups are cgroup directories that a Direct process is placed in before
	// its first instruction; a Runtime command does that itself.
	Cgroups []string `json:"cgroups,omitempty"`
	// Birthplace is a directory of cgroup v2 that a Direct process is born in
	// (CLONE_INTO_CGROUP): sooner than to be moved there, for which the kernel holds up
	// forks and waits for RCU.
	Birthplace string `json:"birthplace,omitempty"`
	// UID and GID of a Direct process, where UID is not 0. It has no
	// supplementary groups but Groups.
	UID    uint32   `json:"uid,omitempty"`
	GID    uint32   `json:"gid,omitempty"`
	Groups []uint32 `json:"groups,omitempty"`

	// Alone makes a Direct process the first of a pid namespace of its own: it can name
	// no other process, and what it starts ends with it.
	Alone bool `json:"alone,omitempty"`

	// MemoryCgroup is the directory of the cgroup whose OOM kills count as
	// this process's (memory.events, or memory.oom_control on v1).
	MemoryCgroup string `json:"memory_cgroup,omitempty"`

	// Ephemeral processes need not survive the keeper: nothing about them is
	// written to disk. One that StartAttached started is not listed any more once
	// its end was told.
	Ephemeral bool `json:"ephemeral,omitempty"`

	// StartTimeout bounds a Runtime command; default 60 s.
	StartTimeout time.Duration `json:"start_timeout,omitempty"`
}

// StdioKind says what a process has for standard streams.
type StdioKind string

// The kinds of standard streams.
const (
	Null    StdioKind = "null"    // /dev/null
	Pipes   StdioKind = "pipes"   // stdout and stderr apart
	PTY     StdioKind = "pty"     // a terminal: all output is stdout
	Sockets StdioKind = "sockets" // the streams are unix sockets that the process listens on (QEMU chardevs)
)

// Stdio describes the standard streams.
type Stdio struct {
	Kind StdioKind `json:"kind"`

	// OpenStdin gives a process with Pipes a standard input that clients can
	// write to; otherwise it is /dev/null. A PTY always has one.
	OpenStdin bool `json:"open_stdin,omitempty"`
	// StdinOnce closes standard input when the first client that attached to
	// it has closed its end or has gone. Without it, standard input stays open
	// for the next client, as docker does.
	StdinOnce bool `json:"stdin_once,omitempty"`

	// UID and GID own the pipes, so that the process can open /dev/stdout.
	UID uint32 `json:"uid,omitempty"`
	GID uint32 `json:"gid,omitempty"`

	Size Size `json:"size,omitzero"` // of the PTY at first

	// ConsoleSocket is where a Runtime command sends the master of the
	// terminal that it made (--console-socket). The keeper listens there.
	ConsoleSocket string `json:"console_socket,omitempty"`

	// Paths of the sockets of kind Sockets; an empty one is not connected. The
	// process's own stdout and stderr go to Exit.Stderr.
	StdinSocket  string `json:"stdin_socket,omitempty"`
	StdoutSocket string `json:"stdout_socket,omitempty"`
	StderrSocket string `json:"stderr_socket,omitempty"`
	// StdinAsked is for a StdinSocket that leads to a serial line, which knows
	// neither an end nor a full buffer. Input goes in frames, each of a length (2
	// bytes, big endian) and so many bytes; one of length 0 is the end. The reader
	// asks for every frame by a byte, and may ask again until it comes.
	StdinAsked bool `json:"stdin_asked,omitempty"`
	// Console says of a process of kind Sockets that its own standard input and
	// output are a serial console (QEMU's chardev stdio): a line without an end, on
	// which input that nobody takes is lost.
	Console bool `json:"console,omitempty"`
}

// Size is a terminal's size in characters.
type Size struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// Log says where output is written, in the format of package crilog.
type Log struct {
	Path    string `json:"path"`               // its directory exists
	MaxSize int64  `json:"max_size,omitempty"` // bytes at which the file is rotated; default 10 MiB
	Files   int    `json:"files,omitempty"`    // kept files, the current one included; default 5
}

// Status is what the keeper knows of a kept process.
type Status struct {
	ID         string    `json:"id"`
	PID        int       `json:"pid"` // 0 once it has ended
	Started    time.Time `json:"started"`
	Exit       *Exit     `json:"exit,omitempty"`        // nil while it runs
	LogDropped int64     `json:"log_dropped,omitempty"` // bytes of output not logged for want of room
	LogError   string    `json:"log_error,omitempty"`   // why the log cannot be written now
	Adopted    bool      `json:"adopted,omitempty"`     // the keeper that started it was killed
	Clients    int       `json:"clients,omitempty"`     // attached now
}

// Exit is how a kept process ended.
type Exit struct {
	Code    int       `json:"code"`              // exit status; 128 + Signal after a signal; 255 where Unknown
	Signal  int       `json:"signal,omitempty"`  // that killed it, or 0
	OOM     bool      `json:"oom,omitempty"`     // its cgroup ran out of memory
	Unknown string    `json:"unknown,omitempty"` // why the code is not known, or ""
	Stderr  string    `json:"stderr,omitempty"`  // Sockets: the end of what the process itself wrote
	Time    time.Time `json:"time"`
}

// CommandError is why a Start failed: the command could not be executed, or a
// Runtime command failed. It is found with errors.As.
type CommandError struct {
	Code   int    // exit status; 127: not found; 126: not executable
	Stderr string // at most 16 KiB of what it wrote to standard error
}

// Error returns what the command itself had to say.
func (e *CommandError) Error() string {
	if e.Stderr == "" {
		return fmt.Sprintf("the command ended with status %d and said nothing", e.Code)
	}
	return e.Stderr
}

// AttachOptions chooses the streams of an Attachment.
type AttachOptions struct {
	Stdin  bool `json:"stdin,omitempty"`
	Stdout bool `json:"stdout,omitempty"`
	Stderr bool `json:"stderr,omitempty"`
	// Wait makes the process wait for this client when ClientBuffer bytes are
	// ahead of it, instead of cutting the client off.
	Wait bool `json:"wait,omitempty"`
	// Console chooses the serial console of a process that has one: its output,
	// which begins with what was kept of the last ConsoleKept bytes, is Stdout. Such
	// a client is never waited for.
	Console bool `json:"console,omitempty"`
}

// maxID bounds an ID so that it fits a file name with a suffix.
const maxID = 128

// ValidID reports whether id can name a kept process: letters, digits, '_',
// '-' and '.', not beginning with '.'; at most 128 of them.
func ValidID(id string) bool {
	if id == "" || len(id) > maxID || id[0] == '.' {
		return false
	}
	for _, c := range []byte(id) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-', c == '.':
		default:
			return false
		}
	}
	return true
}
