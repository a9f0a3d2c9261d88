package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Ports of the virtio-serial bus between a guest and its host, by number.
const (
	PortControl = 1 // this package's protocol
	PortStdin   = 2 // bytes to the entrypoint
	PortStdout  = 3 // bytes from the entrypoint
	PortStderr  = 4
	PortExit    = 5 // one JSON line, Exit, when the entrypoint has ended
)

// SerialSlot is the PCI slot of the serial line that stands for a port on a machine
// without virtio.
func SerialSlot(port int) int { return 0x10 + port }

// Serial numbers by which a guest tells its virtio disks apart.
const (
	LayersSerial = "berth-layers" // read-only: configuration and layers
	DiskSerial   = "berth-disk"   // ext4 for the writable layer
)

// MaxConfig bounds an encoded Config, in bytes.
const MaxConfig = 1 << 20

// Config is what a guest made from an OCI image is told when it boots. It is
// the first partition of the read-only disk; the layers follow it.
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
}

// Process is a command to run in the guest.
type Process struct {
	Args []string `json:"args"` // Args[0] is looked up in PATH of Env
	Env  []string `json:"env,omitempty"`
	User string   `json:"user,omitempty"` // name or uid, optionally with :group
	Dir  string   `json:"dir,omitempty"`
}

// Size is the size of a terminal in characters.
type Size struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// Interface is a network interface, found by its MAC address.
type Interface struct {
	MAC       string   `json:"mac"`
	Name      string   `json:"name"`
	Addresses []string `json:"addresses"` // with prefix length
	Gateway   string   `json:"gateway,omitempty"`
	MTU       int      `json:"mtu,omitempty"`
}

// Mount is a file tree mounted over the root filesystem's: a virtiofs share,
// or a tmpfs where Tag is empty.
type Mount struct {
	Tag      string `json:"tag,omitempty"`
	Path     string `json:"path,omitempty"` // the share's file to mount in place of the whole share
	Target   string `json:"target"`
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

// Encode returns the configuration as the guest reads it.
func (c *Config) Encode() ([]byte, error) {
	data, err := json.Marshal(c)
	if err == nil && len(data) > MaxConfig {
		err = fmt.Errorf("the guest's configuration has %d bytes, more than %d", len(data), MaxConfig)
	}
	return data, err
}

// DecodeConfig reads a configuration from the start of a partition; zeros fill
// the rest.
func DecodeConfig(data []byte) (*Config, error) {
	var c Config
	if err := json.Unmarshal(bytes.TrimRight(data, "\x00"), &c); err != nil {
		return nil, fmt.Errorf("the guest's configuration: %w", err)
	}
	return &c, nil
}
