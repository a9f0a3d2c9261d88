package stage

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthcloud/berth/internal/oci/landlock"
	"github.com/berthcloud/berth/internal/oci/mount"
)

// None marks an index of a descriptor that was not sent.
const None = -1

// Init says what a container's first process is to make of its fresh namespaces.
// Fields ending in File are indices into the descriptors sent along, or None.
type Init struct {
	Process    Process
	Files      int  // how many descriptors are sent along
	HostProc   int  // /proc of the host's mount tree: nothing in the image can forge it
	RootFile   int  // detached mount of the root filesystem
	Chroot     bool // no mount namespace of its own: RootFile is a directory, and nothing is mounted
	NoPivot    bool
	RootRO     bool
	RootProp   uint64 // MS_* propagation of the container's root, 0 for none
	Mounts     []Mount
	Devices    []Device
	Links      []Link
	Masked     []string
	ReadOnly   []string
	Hostname   string
	Domainname string
	Sysctl     map[string]string
	NewCgroup  bool // unshare the cgroup namespace once the cgroups are joined
	HookRound  bool // say Prepared and wait
	Reap       bool // execute a tiny init that reaps and forwards signals
	Attended   bool // the start is awaited from the runtime, there is no start socket

	// The runtime's own program is one of the process's descriptors: for what else is not
	// said in system calls.
	Helper bool

	CreateContainer, StartContainer bool // have hooks
}

// Exec says what a process that already is in the container's namespaces is to run.
type Exec struct {
	Process Process
	Files   int
	Attr    int // detached mount of the process's attributes in the host's procfs, where Process HasLabel
}

// Process is what both have in common: everything that execve needs.
type Process struct {
	Args        []string
	Env         []string
	Cwd         string
	UID, GID    uint32
	Username    string // resolved by Resolve instead, as name, uid, name:group, …; "" for UID and GID
	Groups      []uint32
	SetGroups   bool // false where setgroups is denied in the user namespace
	Umask       int  // -1 for the default
	Caps        specs.LinuxCapabilities
	NoNewPrivs  bool
	Rlimits     []specs.POSIXRlimit
	AppArmor    string
	SELinux     string
	Landlock    *landlock.Domain // none without one
	Personality *uint32          // PER_LINUX32 …
	Scheduler   *Scheduler
	IOPriority  *int // class and level as ioprio_set wants them
	Keyring     bool // join a new session keyring

	MemoryPolicy *MemoryPolicy
	CPUs         []int // processors to run on; none to leave them as they are

	Root         bool // become root of the user namespace first
	Preserve     int  // descriptors from 3 on that the workload inherits
	Terminal     bool
	Console      bool // the terminal is nobody's controlling terminal yet
	Rows, Cols   uint16
	CgroupFiles  []int  // "tasks" files of v1 cgroups, opened for writing
	Seccomp      []byte // BPF program: struct sock_filter, eight bytes each, in the machine's order; none without a filter
	SeccompFlags uint

	path string // of the program, found by Resolve
}

// HasLabel reports whether the workload runs under a label of AppArmor or SELinux.
func (p *Process) HasLabel() bool { return p.AppArmor != "" || p.SELinux != "" }

// Scheduler is the policy of sched_setattr(2).
type Scheduler struct {
	Policy, Priority          uint32
	Flags                     uint64
	Nice                      int32
	Runtime, Deadline, Period uint64
}

// MemoryPolicy is that of set_mempolicy(2): the mode with its flags, and a bit for each
// node.
type MemoryPolicy struct {
	Mode  int
	Nodes []uint64
}

// Mount is one mount of the container, in order.
type Mount struct {
	Dest   string         // absolute, as the container sees it
	Field  string         // "mounts[3]", for errors
	File   int            // detached mount made by the runtime (bind mounts), or None
	Dir    bool           // whether the target is a directory
	Bind   *mount.Options // a bind mount of Source for the process to make, else nil; Dir is then unknown
	Type   string         // filesystem type to create when File is None and Bind nil
	Source string
	Attr   uint64   // MOUNT_ATTR_* to set
	Data   []string // filesystem options
	Prop   uint64   // MS_* propagation, 0 for private
	LateRO bool     // becomes read-only after all mounts are placed
	CopyUp bool     // tmpcopyup
}

// Link is a symbolic link.
type Link struct{ Path, Target string }

// Device is one device node.
type Device struct {
	Path         string
	Field        string
	File         int // detached bind mount of the host's node, or None to create it
	Type         string
	Major, Minor int64
	Mode         uint32
	UID, GID     uint32
}
