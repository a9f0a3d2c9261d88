package agent

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Ports of the virtio-serial bus between a guest and its host, by number.
const (
	PortControl = 1 // this package's protocol
	PortStdin   = 2 // bytes to the entrypoint
	PortStdout  = 3 // bytes from the entrypoint
	PortStderr  = 4
	PortExit    = 5 // one line, Exit, when the entrypoint has ended
	PortWake    = 6 // of machines from a template: Wake
)

// SerialSlot is the PCI slot of the serial line that stands for a port on a machine
// without virtio.
func SerialSlot(port int) int { return 0x10 + port }

// Serial numbers by which a guest tells its virtio disks apart.
const (
	LayersSerial = "berth-layers" // read-only: configuration and layers
	DiskSerial   = "berth-disk"   // ext4 for the writable layer, or what a guest starts from
	SeedSerial   = "berth-seed"   // read-only: vfat with what a guest is told that starts by itself
)

// SeedFile is the encoded Config on the seed of a guest that starts by itself.
const SeedFile = "berth-agent"

// MaxConfig bounds an encoded Config, in bytes.
const MaxConfig = 1 << 20

// Config is what a guest is told when it boots. Where it was made from an OCI image,
// it is the first partition of the read-only disk; the layers follow it. Where it
// starts by itself, it is SeedFile, and has no layers, no disk and no process. The
// JSON is for people who look at a plan.
type Config struct {
	Layers    int     `json:"layers"`              // partitions 2 to Layers+1, bottom first
	Disk      bool    `json:"disk,omitempty"`      // a second disk holds ext4 for the writable layer; else tmpfs
	Transient bool    `json:"transient,omitempty"` // the disk is removed after this run
	ReadOnly  bool    `json:"read_only,omitempty"` // the root filesystem is mounted read-only
	Process   Process `json:"process"`
	TTY       bool    `json:"tty,omitempty"`
	OpenStdin bool    `json:"open_stdin,omitempty"`
	Size      Size    `json:"size,omitzero"`

	Hostname     string      `json:"hostname"`
	Hosts        string      `json:"hosts,omitempty"`       // content of /etc/hosts
	ResolvConf   string      `json:"resolv_conf,omitempty"` // content of /etc/resolv.conf
	Interfaces   []Interface `json:"interfaces,omitempty"`
	Mounts       []Mount     `json:"mounts,omitempty"`
	Capabilities uint64      `json:"capabilities"`        // bounding set of the user's processes, by number
	NewPrivs     bool        `json:"new_privs,omitempty"` // setuid programs may gain privileges
	PIDs         int64       `json:"pids,omitempty"`      // most processes of the user; 0 for no limit
	Limits       []Limit     `json:"limits,omitempty"`    // of the entrypoint and of what is executed beside it
	// MachineID is what the machine id (machine-id(5)) has to be where the disk was
	// another machine's: then that, and all else that tells one from the other, is
	// made anew, once. "" leaves the disk as it is.
	MachineID string `json:"machine_id,omitempty"`
	// Step says that the machine is a step's of a build: what tells it its name and
	// neighbors is mounted over the root's files, which stay as they are.
	Step bool `json:"step,omitempty"`
}

// Process is a command to run in the guest.
type Process struct {
	Args []string `json:"args"` // Args[0] is looked up in PATH of Env
	Env  []string `json:"env,omitempty"`
	User string   `json:"user,omitempty"` // name or uid, optionally with :group
	Dir  string   `json:"dir,omitempty"`
}

// IdleArg has the agent's program, as an entrypoint, only wait to be ended.
const IdleArg = "idle"

// IdleProcess is the entrypoint of a machine that runs to be asked: no image has to have
// one that waits.
func IdleProcess() Process {
	return Process{Args: []string{"/proc/self/exe", IdleArg}, User: "0:0", Dir: "/"}
}

// Size is the size of a terminal in characters.
type Size struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// Interface is a network interface, found by the MAC address that its device has.
type Interface struct {
	MAC       string   `json:"mac"`
	Device    string   `json:"device,omitempty"` // the address that it has first, where that is not MAC
	Name      string   `json:"name"`
	Addresses []string `json:"addresses"` // with prefix length
	Gateway   string   `json:"gateway,omitempty"`
	MTU       int      `json:"mtu,omitempty"`
}

// Mount is a file tree mounted over the root filesystem's: a virtiofs share, the ext4
// of a disk, a partition of the disk of layers, or a tmpfs where there is none of these.
// A disk without a target gets its name in /dev/disk/by-id alone. What is written to a
// partition goes to the machine's disk.
type Mount struct {
	Tag      string `json:"tag,omitempty"`
	Disk     string `json:"disk,omitempty"` // the disk's serial number
	Part     int    `json:"part,omitempty"` // the partition's number
	Path     string `json:"path,omitempty"` // the file to mount in place of the whole share or partition
	Target   string `json:"target,omitempty"`
	ReadOnly bool   `json:"read_only,omitempty"`
	Size     int64  `json:"size,omitempty"` // tmpfs: bytes, 0 for half of the memory
	Mode     uint32 `json:"mode,omitempty"` // tmpfs: permission bits
}

// Limit is a resource limit (setrlimit(2)); ^0 means unlimited.
type Limit struct {
	Resource int    `json:"resource"`
	Soft     uint64 `json:"soft"`
	Hard     uint64 `json:"hard"`
}

// Exit is how the entrypoint ended, or why it never ran.
type Exit struct {
	Code  int    `json:"code"`            // 128 + signal where a signal ended it; 127, 126 where it could not start
	OOM   bool   `json:"oom,omitempty"`   // killed because the guest's memory was used up
	Error string `json:"error,omitempty"` // one line; empty where the entrypoint ran
}

// Exit codes of commands that could not be started, as shells have them.
const (
	CodeNotFound    = 127
	CodeNotRunnable = 126
	CodeFault       = 125 // the guest itself failed
)

// String returns the line that a guest writes to its exit port:
//
//	code oom error
//
// where oom is 0 or 1, and error may be missing.
func (e Exit) String() string {
	oom := "0"
	if e.OOM {
		oom = "1"
	}
	return strconv.Itoa(e.Code) + " " + oom + " " + strings.ReplaceAll(e.Error, "\n", " ") + "\n"
}

// ParseExit reads the line of an Exit at the start of what a guest wrote.
func ParseExit(text string) (Exit, error) {
	line, _, whole := strings.Cut(text, "\n")
	code, rest, _ := strings.Cut(line, " ")
	oom, said, found := strings.Cut(rest, " ")
	n, err := strconv.ParseUint(code, 10, 8)
	if !whole || !found || err != nil || oom != "0" && oom != "1" {
		return Exit{}, errors.New("the guest wrote no line that says how it ended")
	}
	return Exit{Code: int(n), OOM: oom == "1", Error: said}, nil
}

// Encode returns the configuration as the guest reads it.
func (c *Config) Encode() ([]byte, error) {
	f := fields{data: []byte(configMagic)}
	c.fields(&f)
	if len(f.data) > MaxConfig {
		return nil, fmt.Errorf("the guest's configuration has %d bytes, more than %d", len(f.data), MaxConfig)
	}
	return f.data, nil
}

// configMagic begins an encoded Config. Its number changes with the fields, unless they
// are added at the end: an older agent does not look there.
const configMagic = "berth guest 3\n"

// DecodeConfig reads a configuration from the start of a partition; zeros fill
// the rest.
func DecodeConfig(data []byte) (*Config, error) {
	if !strings.HasPrefix(string(data[:min(len(data), len(configMagic))]), configMagic) {
		return nil, errors.New("the guest's configuration: not one of this agent's version")
	}
	f := fields{data: data[len(configMagic):], reading: true}
	var c Config
	c.fields(&f)
	if f.err != nil {
		return nil, fmt.Errorf("the guest's configuration: %w", f.err)
	}
	return &c, nil
}

func (c *Config) fields(f *fields) {
	number(f, &c.Layers)
	for _, flag := range []*bool{&c.Disk, &c.Transient, &c.ReadOnly, &c.TTY, &c.OpenStdin, &c.NewPrivs} {
		f.flag(flag)
	}
	list(f, &c.Process.Args, (*fields).text)
	list(f, &c.Process.Env, (*fields).text)
	f.text(&c.Process.User)
	f.text(&c.Process.Dir)
	number(f, &c.Size.Rows)
	number(f, &c.Size.Cols)
	f.text(&c.Hostname)
	f.text(&c.Hosts)
	f.text(&c.ResolvConf)
	list(f, &c.Interfaces, (*fields).networkInterface)
	list(f, &c.Mounts, (*fields).mount)
	f.unsigned(&c.Capabilities)
	number(f, &c.PIDs)
	list(f, &c.Limits, (*fields).limit)
	if !f.reading || len(f.data) > 0 { // an older host ends here
		f.text(&c.MachineID)
	}
	if !f.reading || len(f.data) > 0 { // or here
		f.flag(&c.Step)
		for i := range c.Mounts {
			number(f, &c.Mounts[i].Part)
		}
	}
}

func (f *fields) networkInterface(i *Interface) {
	f.text(&i.MAC)
	f.text(&i.Device)
	f.text(&i.Name)
	list(f, &i.Addresses, (*fields).text)
	f.text(&i.Gateway)
	number(f, &i.MTU)
}

func (f *fields) mount(m *Mount) {
	f.text(&m.Tag)
	f.text(&m.Disk)
	f.text(&m.Path)
	f.text(&m.Target)
	f.flag(&m.ReadOnly)
	number(f, &m.Size)
	number(f, &m.Mode)
}

func (f *fields) limit(l *Limit) {
	number(f, &l.Resource)
	f.unsigned(&l.Soft)
	f.unsigned(&l.Hard)
}
