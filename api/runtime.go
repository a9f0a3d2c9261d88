package api

import (
	"encoding/json"
	"time"
)

// Exec is a command to run in a running instance.
type Exec struct {
	Command    []string `json:"command"`
	Env        []string `json:"env,omitempty" doc:"added to the instance's"`
	User       string   `json:"user,omitempty" doc:"default: the instance's"`
	WorkingDir string   `json:"working_dir,omitempty" doc:"default: the instance's"`
	TTY        bool     `json:"tty,omitempty"`
	Stdin      bool     `json:"stdin,omitempty" doc:"the command reads the client's standard input"`
	Size       Size     `json:"size,omitzero" doc:"of the terminal at start"`
}

// Size is the size of a terminal in characters.
type Size struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// Stats is what an instance has used. Counters grow from the instance's start.
// For a container they count its cgroup, for a VM the guest as its agent sees
// it, with HostMemory and HostCPU for what the VM costs the host.
type Stats struct {
	ID          string    `json:"id"`
	Name        string    `json:"name"`
	Time        time.Time `json:"time"`
	CPU         Duration  `json:"cpu" doc:"processor time, user and system"`
	Memory      int64     `json:"memory" doc:"bytes in use without the page cache"`
	MemoryLimit int64     `json:"memory_limit" doc:"bytes"`
	PIDs        int64     `json:"pids"`
	NetRx       int64     `json:"net_rx" doc:"bytes received"`
	NetTx       int64     `json:"net_tx" doc:"bytes sent"`
	DiskRead    int64     `json:"disk_read" doc:"bytes"`
	DiskWrite   int64     `json:"disk_write" doc:"bytes"`
	HostMemory  int64     `json:"host_memory,omitempty" doc:"VM only: bytes resident on the host"`
	HostCPU     Duration  `json:"host_cpu,omitempty" doc:"VM only: processor time of QEMU"`
}

// Top lists the processes of an instance, with pids as the instance sees them.
type Top struct {
	Processes []Process `json:"processes"`
}

// Process is one process of an instance.
type Process struct {
	PID     int    `json:"pid"`
	PPID    int    `json:"ppid"`
	User    string `json:"user" doc:"uid in the instance"`
	State   string `json:"state" doc:"as in /proc/PID/stat"`
	Memory  int64  `json:"memory" doc:"resident bytes"`
	Command string `json:"command"`
}

// LogLine is one line, or a part of a very long one, that an instance wrote.
type LogLine struct {
	Time    time.Time `json:"time"`
	Stream  string    `json:"stream" enum:"stdout,stderr"`
	Text    string    `json:"text" doc:"without the line break; bytes that are not UTF-8 are replaced"`
	Partial bool      `json:"partial,omitempty" doc:"the next line continues this one"`
}

// Event says that something changed.
type Event struct {
	Time   time.Time         `json:"time"`
	Type   string            `json:"type" doc:"instance, image, volume, network"`
	Action string            `json:"action" doc:"as in create, start, exit, health, pull"`
	ID     string            `json:"id,omitempty"`
	Name   string            `json:"name,omitempty"`
	Detail map[string]string `json:"detail,omitempty"`
}

// Operation is work that takes longer than a request should.
type Operation struct {
	ID       string     `json:"id"`
	Kind     string     `json:"kind" doc:"as in pull, import, bootstrap"`
	Name     string     `json:"name,omitempty" doc:"what it works on"`
	Started  time.Time  `json:"started"`
	Done     bool       `json:"done"`
	Error    *Problem   `json:"error,omitempty"`
	Result   string     `json:"result,omitempty" doc:"the name or id of what it made"`
	Progress []Progress `json:"progress,omitempty" doc:"the latest of each part"`
}

// Progress is how far one part of an operation has come.
type Progress struct {
	Part    string `json:"part" doc:"as in a layer's short digest"`
	Stage   string `json:"stage" doc:"as in waiting, downloading, converting, done"`
	Current int64  `json:"current,omitempty" doc:"bytes"`
	Total   int64  `json:"total,omitempty" doc:"bytes; 0 while unknown"`
	Text    string `json:"text,omitempty" doc:"a line of output, where the stage is not counted in bytes"`
}

// Problem is an Error on the wire.
type Problem struct {
	Kind    ErrorKind `json:"kind"`
	Op      string    `json:"op,omitempty"`
	Name    string    `json:"name,omitempty"`
	Message string    `json:"message" doc:"the whole line a user sees"`
}

// Image is a named image of the store.
type Image struct {
	Name     string       `json:"name" doc:"as in docker.io/library/debian:12, or a short local name"`
	Digest   string       `json:"digest" doc:"of the manifest or index"`
	Created  time.Time    `json:"created"`
	Size     int64        `json:"size" doc:"bytes of content in the store: layers as distributed and as EROFS"`
	Platform string       `json:"platform,omitempty"`
	Type     string       `json:"type" doc:"rootfs, disk or kernel"`
	Part     bool         `json:"part,omitempty" doc:"it has no tag and belongs to another image here: as a platform, or a signature"`
	Layers   []ImageLayer `json:"layers,omitempty" doc:"bottom first; inspect only"`
	Config   *ImageConfig `json:"config,omitempty" doc:"inspect only"`
	Disk     *DiskImage   `json:"disk,omitempty" doc:"of an image that holds a VM's disk"`
	History  []ImageStep  `json:"history,omitempty" doc:"the latest first; inspect only"`
	Users    []string     `json:"users,omitempty" doc:"instances that hold it; inspect only"`
}

// ImageStep is one of the steps in which an image was made.
type ImageStep struct {
	Created time.Time `json:"created,omitzero"`
	By      string    `json:"by" doc:"what made it: a command, or a line of a Dockerfile"`
	Comment string    `json:"comment,omitempty"`
	Author  string    `json:"author,omitempty"`
	Layer   string    `json:"layer,omitempty" doc:"digest as distributed; a step that changed no file has none"`
	Size    int64     `json:"size" doc:"bytes of the layer as distributed"`
}

// DiskImage is the disk that an image holds.
type DiskImage struct {
	Size     int64    `json:"size" doc:"bytes of the disk, as a guest sees it"`
	Format   string   `json:"format" doc:"as the store keeps it"`
	Firmware Firmware `json:"firmware" enum:"bios,uefi" doc:"by which it starts where the instance does not choose"`
	Agent    bool     `json:"agent,omitempty" doc:"berth-agent is a service of the guest's"`
}

// ImageLayer is one read-only layer.
type ImageLayer struct {
	DiffID string `json:"diff_id" doc:"digest of the uncompressed tar"`
	Digest string `json:"digest" doc:"digest as distributed"`
	Size   int64  `json:"size" doc:"bytes as distributed"`
	EROFS  int64  `json:"erofs" doc:"bytes of the EROFS image"`
}

// ImageConfig is what an image says of how it wants to run.
type ImageConfig struct {
	Entrypoint []string          `json:"entrypoint,omitempty"`
	Command    []string          `json:"command,omitempty"`
	Env        []string          `json:"env,omitempty"`
	User       string            `json:"user,omitempty"`
	WorkingDir string            `json:"working_dir,omitempty"`
	StopSignal string            `json:"stop_signal,omitempty"`
	Volumes    []string          `json:"volumes,omitempty"`
	Ports      []string          `json:"ports,omitempty" doc:"as in 80/tcp"`
	Labels     map[string]string `json:"labels,omitempty"`
	Health     *HealthCheck      `json:"health,omitempty"`
}

// ChangeKind says how a file differs from the image's.
type ChangeKind string

// The kinds of changes.
const (
	Added    ChangeKind = "added"
	Modified ChangeKind = "modified" // also a directory that something was changed in
	Deleted  ChangeKind = "deleted"
)

// Change is a file that an instance has changed in its root filesystem.
type Change struct {
	Kind ChangeKind `json:"kind" enum:"added,modified,deleted"`
	Path string     `json:"path"`
}

// Volume is storage that outlives instances.
type Volume struct {
	Name    string            `json:"name"`
	Created time.Time         `json:"created"`
	Labels  map[string]string `json:"labels,omitempty"`
	Path    string            `json:"path" doc:"on the host"`
	Size    int64             `json:"size,omitempty" doc:"bytes of a volume that is a disk; 0 for a file tree"`
	Users   []string          `json:"users,omitempty" doc:"instances that mount it"`
}

// SBOM is the bill of materials of an image.
type SBOM struct {
	Format   string          `json:"format" doc:"spdx or cyclonedx"`
	Document json.RawMessage `json:"document" doc:"as its format has it"`
}

// Network is an isolated segment with addresses and names.
type Network struct {
	Name     string            `json:"name"`
	Subnet   string            `json:"subnet,omitempty" doc:"IPv4 with prefix length; default: one that is free"`
	Gateway  string            `json:"gateway,omitempty" doc:"the host's address on it"`
	Internal bool              `json:"internal,omitempty" doc:"without a way out, and without published ports"`
	Bridge   string            `json:"bridge,omitempty" doc:"the device on the host"`
	Labels   map[string]string `json:"labels,omitempty"`
	Created  time.Time         `json:"created,omitzero"`
	Users    []string          `json:"users,omitempty" doc:"instances that belong to it"`
}

// Info describes a daemon and its host.
type Info struct {
	Version   string            `json:"version"`
	Host      string            `json:"host"`
	Kernel    string            `json:"kernel"`
	Arch      string            `json:"arch"`
	CPUs      int               `json:"cpus"`
	Memory    int64             `json:"memory" doc:"bytes"`
	Root      string            `json:"root" doc:"where state lives"`
	Run       string            `json:"run" doc:"where runtime facts live"`
	Cgroup    string            `json:"cgroup" doc:"v1, v2, or none: an ordinary user who has none delegated"`
	Instances map[string]int    `json:"instances" doc:"how many in each state"`
	Images    int               `json:"images"`
	Drivers   map[string]string `json:"drivers" doc:"each kind, and why it cannot be used where it cannot"`
	Hardware  string            `json:"hardware" doc:"whether hardware virtualization was proved, or why not"`
	Warnings  []string          `json:"warnings,omitempty"`
}

// VersionInfo names a build.
type VersionInfo struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Built   string `json:"built,omitempty"`
	Go      string `json:"go"`
	API     string `json:"api"`
}

// Pruned is what a prune removed.
type Pruned struct {
	Instances []string `json:"instances,omitempty"`
	Images    []string `json:"images,omitempty"`
	Volumes   []string `json:"volumes,omitempty"`
	Templates []string `json:"templates,omitempty"`
	Bytes     int64    `json:"bytes" doc:"freed"`
}

// Usage is what there is on a host, and what it takes of the disk.
type Usage struct {
	Images     UsageRow `json:"images" doc:"blobs that they share are counted once"`
	Instances  UsageRow `json:"instances" doc:"with their writable layers, logs, snapshots and saved states"`
	Volumes    UsageRow `json:"volumes"`
	Templates  UsageRow `json:"templates" doc:"saved machines that VMs begin as copies of"`
	BuildCache UsageRow `json:"build-cache" doc:"what build steps have changed; layers of its images are among the images"`
}

// UsageRow is what there is of one type.
type UsageRow struct {
	Total       int   `json:"total"`
	Active      int   `json:"active" doc:"in use"`
	Size        int64 `json:"size" doc:"bytes on the disk"`
	Reclaimable int64 `json:"reclaimable" doc:"bytes that pruning would free"`
}

// Add counts one more.
func (u *UsageRow) Add(size int64, active bool) {
	u.Total++
	u.Size += size
	if active {
		u.Active++
	} else {
		u.Reclaimable += size
	}
}

// Snapshot is an instance as it was at a moment.
type Snapshot struct {
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	Memory  bool      `json:"memory" doc:"it was running, and goes on from there when it is restored; else it is its disk alone"`
	Size    int64     `json:"size" doc:"bytes on disk, of which it may share some with the instance"`
	Volumes []string  `json:"volumes,omitempty" doc:"the further disks that it has too, and that a restore puts back"`
}

// Template is a machine that was booted once and saved, so that VMs with the same
// devices begin as copies of it.
type Template struct {
	ID   string    `json:"id"`
	Size int64     `json:"size" doc:"bytes of the disk"`
	Used time.Time `json:"used" doc:"when a VM last began as its copy"`
}

// Channel is the first byte of every binary message of an attach or exec
// stream (a websocket); the rest is the channel's data.
type Channel byte

// The channels of a stream.
const (
	ChannelStdin   Channel = 0 // client to server
	ChannelStdout  Channel = 1 // server to client
	ChannelStderr  Channel = 2 // server to client
	ChannelControl Channel = 3 // a Control as JSON, both ways
)

// VNCAccess is what a VNC client of a VM's display has to know.
type VNCAccess struct {
	Password string `json:"password" doc:"of the present run"`
}

// Identity is how an instance is referred to.
type Identity struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// Control is a message on ChannelControl; one field is set.
type Control struct {
	Resize     *Size     `json:"resize,omitempty"`      // client: the terminal's new size
	CloseStdin bool      `json:"close_stdin,omitempty"` // client: end of standard input
	Created    *Identity `json:"created,omitempty"`     // server: the instance was made; only to a client that asked to make it
	Started    *Status   `json:"started,omitempty"`     // server: the instance runs; only to a client that asked to start it
	Exit       *Exit     `json:"exit,omitempty"`        // server: the command ended; last message
	Problem    *Problem  `json:"problem,omitempty"`     // server: it failed; last message
}
