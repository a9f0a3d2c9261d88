package agent

import (
	"strconv"

	"github.com/berthcloud/berth/api"
)

// Op names a call.
type Op string

// The calls.
const (
	OpExec      Op = "exec"     // runs Request.Exec; data on all channels
	OpSignal    Op = "signal"   // sends Request.Signal to the entrypoint
	OpResize    Op = "resize"   // sets the entrypoint's terminal to Request.Size
	OpCopyIn    Op = "copy-in"  // unpacks a tar from channel 0 into Request.Path
	OpCopyOut   Op = "copy-out" // packs Request.Path as a tar on channel 1
	OpLayer     Op = "layer"    // the writable layer as an OCI layer's tar on channel 1; with Request.NamesOnly its headers, with Request.Part that of a mount
	OpPlace     Op = "place"    // mounts the one file of a tar from channel 0, in memory, over Request.Path
	OpRoot      Op = "root"     // the root filesystem on the further disk Request.Path as an OCI layer's tar on channel 1
	OpFreeze    Op = "freeze"   // holds back what writes to disks until channel 0 ends; a byte on channel 1 says that they are at rest
	OpStats     Op = "stats"
	OpTop       Op = "top"        // a JSON list of Proc on channel 1
	OpLimitPIDs Op = "limit-pids" // bounds the user's processes to Request.Limit
	OpUseCPUs   Op = "use-cpus"   // switches on processors that were added, until Request.Limit run
	OpGrowDisk  Op = "grow-disk"  // has the filesystem use a disk of Request.Limit bytes
	OpSetClock  Op = "set-clock"  // sets the clock to Request.Time
	OpRefresh   Op = "refresh"    // takes clock and randomness of Request.Wake, an encoded Wake
	OpHold      Op = "hold"       // holds all processes but the agent still, until let-go: beyond the end of the connection, and in a copy too
	OpLetGo     Op = "let-go"     // lets them go on, where they are held
	OpBecome    Op = "become"     // makes of the copy of another machine the one of Request.Config, an encoded Config
	OpShutdown  Op = "shutdown"   // ends the entrypoint by SIGKILL and powers off
	OpPing      Op = "ping"       // answered at once
)

// The channels of a stream.
const (
	ChannelStdin  = 0
	ChannelStdout = 1
	ChannelStderr = 2
)

// Request is the first message of a call.
type Request struct {
	Op     Op     `json:"op"`
	Exec   *Exec  `json:"exec,omitempty"`
	Signal int    `json:"signal,omitempty"`
	Size   Size   `json:"size,omitzero"`
	Path   string `json:"path,omitempty"`
	Limit  int64  `json:"limit,omitempty"`
	Time   int64  `json:"time,omitempty"` // nanoseconds since 1970
	Wake   []byte `json:"wake,omitempty"`
	Config []byte `json:"config,omitempty"`

	NamesOnly bool `json:"names_only,omitempty"`
	Exact     bool `json:"exact,omitempty"` // layer: times to the nanosecond
	Part      int  `json:"part,omitempty"`  // layer: of the mount of this partition
}

// Exec is a command to run beside the entrypoint. What Process leaves empty is
// the entrypoint's.
type Exec struct {
	Process Process `json:"process"`
	TTY     bool    `json:"tty,omitempty"`
	Stdin   bool    `json:"stdin,omitempty"`
	Size    Size    `json:"size,omitzero"`
	Alone   bool    `json:"alone,omitempty"` // what it leaves running ends with it
}

// Control is a message to a call that runs.
type Control struct {
	Resize *Size `json:"resize,omitempty"`
}

// Reply is the last message of a call.
type Reply struct {
	Kind  api.ErrorKind `json:"kind,omitempty"` // of the error
	Error string        `json:"error,omitempty"`
	Exit  *Exit         `json:"exit,omitempty"`
	Stats *Stats        `json:"stats,omitempty"`
	Root  *Root         `json:"root,omitempty"`
}

// Root is the root filesystem that a disk holds.
type Root struct {
	Partition  int    `json:"partition"`  // counted from 1; 0 where the disk has none
	Filesystem string `json:"filesystem"` // as in ext4
	Init       string `json:"init"`       // the program that a kernel would start, "" without one
}

// The directory of a machine that reads disks which has modules of the kernel, for
// filesystems beyond those that every machine has: the file order has their names.
const (
	DriversDir   = "/drivers"
	DriversOrder = "order"
)

// Stats is what the guest has used since it booted. Sizes are in bytes, times
// in nanoseconds.
type Stats struct {
	CPU         int64 `json:"cpu"`
	Memory      int64 `json:"memory"` // without the page cache
	MemoryTotal int64 `json:"memory_total"`
	PIDs        int64 `json:"pids"`
	NetRx       int64 `json:"net_rx"`
	NetTx       int64 `json:"net_tx"`
	DiskRead    int64 `json:"disk_read"`
	DiskWrite   int64 `json:"disk_write"`
}

// Proc is a process of the guest.
type Proc struct {
	PID     int    `json:"pid"`
	PPID    int    `json:"ppid"`
	UID     int    `json:"uid"`
	State   string `json:"state"`
	Memory  int64  `json:"memory"` // resident bytes
	Command string `json:"command"`
}

// User returns the uid as text.
func (p Proc) User() string { return strconv.Itoa(p.UID) }
