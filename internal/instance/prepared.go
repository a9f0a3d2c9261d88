package instance

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/berthcloud/berth/api"
)

// Prepared is everything a driver needs for one run, finished by the engine.
// It is plain data: the engine writes it to RunDir/prepared.json before
// Create, and reads it back for Adopt.
type Prepared struct {
	ID   string   `json:"id"`
	Spec api.Spec `json:"spec"`

	Arch    string  `json:"arch,omitempty"`   // of the image, as GOARCH; "" for the host's
	Idle    bool    `json:"idle,omitempty"`   // nothing of Process is to run: the driver is to be asked about the instance
	Step    bool    `json:"step,omitempty"`   // VMs: an idle run for a step of a build, which its Stepper carries out; etc/hosts and the like are mounted over the root filesystem's
	Cloned  bool    `json:"cloned,omitempty"` // its disk, and what it goes on from, were another instance's
	Process Process `json:"process"`          // image and Spec merged
	Rootfs  Rootfs  `json:"rootfs"`

	Interfaces []Interface  `json:"interfaces,omitempty"` // beside loopback
	HostNet    bool         `json:"host_net,omitempty"`   // containers: share the host's network
	Ports      []api.Port   `json:"ports,omitempty"`      // as they are published; the network's business
	Mounts     []Mount      `json:"mounts,omitempty"`     // sources resolved and existing
	Hostname   string       `json:"hostname"`
	DNS        []string     `json:"dns,omitempty"`   // name servers for resolv.conf
	Hosts      []HostsEntry `json:"hosts,omitempty"` // lines of /etc/hosts beyond localhost

	Users  IDRange `json:"users"`  // host ids of its own: the container's user namespace, the VM's QEMU (the first); Size 0 for none
	Kernel Kernel  `json:"kernel"` // VMs

	Dir     string `json:"dir"`      // existing; survives a reboot of the host
	RunDir  string `json:"run_dir"`  // existing; does not
	LogPath string `json:"log_path"` // "": what is attached gets the output, and nobody else
	Cgroup  string `json:"cgroup"`   // path below the hierarchy's root that the run owns, as in /berth/ID
}

// SavedDir is where a run of the instance is saved that is to go on: a Create that finds
// it makes one that does, and the Start of that one removes it.
func (p *Prepared) SavedDir() string { return filepath.Join(p.Dir, SavedName) }

// SavedName is the name of SavedDir in Prepared.Dir; SavedState is that of a file in it,
// and in what Saver.Save makes, where the memory is saved; SavedVolume begins those of
// volumes, before their names.
const (
	SavedName   = "suspended"
	SavedState  = "state"
	SavedVolume = "volume-"
)

// Process is the entrypoint of a run.
type Process struct {
	Args        []string `json:"args"` // never empty; Args[0] is looked up in PATH of Env inside the instance
	Env         []string `json:"env"`
	User        string   `json:"user,omitempty"` // name, uid, name:group…; resolved inside the instance
	WorkingDir  string   `json:"working_dir"`
	TTY         bool     `json:"tty,omitempty"`
	OpenStdin   bool     `json:"open_stdin,omitempty"`
	StdinOnce   bool     `json:"stdin_once,omitempty"`
	StopSignal  int      `json:"stop_signal"`
	InitialSize api.Size `json:"initial_size,omitzero"`
}

// Rootfs describes where the root filesystem comes from.
type Rootfs struct {
	// Layers are the read-only layers, bottom first. For a container each is
	// a directory of the host (a mounted EROFS image); for a VM each is an
	// EROFS image file.
	Layers []string `json:"layers"`
	// Upper and Work are a container's writable layer: overlayfs's upperdir
	// and workdir, on one filesystem. File ownership in Upper is the
	// container's own (ids 0 to 65535), never shifted.
	Upper string `json:"upper,omitempty"`
	Work  string `json:"work,omitempty"`
	// Whole says that Upper is to hold by itself all that was changed, for readers that
	// know nothing of overlayfs's references to the layers below.
	Whole bool `json:"whole,omitempty"`
	// Image is the disk that a VM starts from by itself, in place of Layers.
	Image *DiskImage `json:"image,omitempty"`
	// Disk is a VM's writable layer: a sparse raw file of DiskSize bytes. It
	// holds ext4 after the first run; the driver makes the filesystem where
	// the file does not exist. Over an Image it is a qcow2 file that takes what
	// the guest writes.
	Disk     string `json:"disk,omitempty"`
	DiskSize int64  `json:"disk_size,omitempty"`
}

// DiskImage is a read-only disk that machines share. Its guest has a kernel and an
// init of its own: nothing of Process but the terminal concerns it.
type DiskImage struct {
	Path     string       `json:"path"` // raw
	Size     int64        `json:"size"` // bytes
	Firmware api.Firmware `json:"firmware"`
	Agent    bool         `json:"agent,omitempty"` // berth-agent is a service of the guest's
}

// Interface is a network interface that the driver plugs: a veth pair for a
// container, a tap for a VM, one end of it a port of the bridge. That end is
// not the driver's to delete: the network takes it away when it detaches the
// instance, without making anybody wait for it.
type Interface struct {
	Network  string   `json:"network"`
	Name     string   `json:"name"`      // in the instance: eth0
	HostName string   `json:"host_name"` // on the host, unique, at most 15 bytes
	Bridge   string   `json:"bridge"`
	MAC      string   `json:"mac"`
	Address  []string `json:"addresses"` // with prefix length
	Gateway  string   `json:"gateway,omitempty"`
	MTU      int      `json:"mtu,omitempty"` // 0 for the bridge's
}

// Mount is a mount of the specification whose source the engine has resolved.
type Mount struct {
	Type     api.MountType `json:"type"`
	Source   string        `json:"source,omitempty"` // an absolute, existing path of the host; "" for tmpfs
	Target   string        `json:"target,omitempty"` // in the instance; made where missing; "" of a disk that is not mounted
	ReadOnly bool          `json:"read_only,omitempty"`
	Name     string        `json:"name,omitempty"` // disk: of the volume
	Size     int64         `json:"size,omitempty"` // tmpfs and disk: bytes, never 0
	Mode     uint32        `json:"mode,omitempty"` // tmpfs: permission bits, never 0
	Exec     bool          `json:"exec,omitempty"` // tmpfs: programs in it may be run
	// Image is an EROFS image that a VM mounts in place of Source: its file Entry, or all
	// of it. What is written there is the run's, and its Stepper can tell it.
	Image string `json:"image,omitempty"`
	Entry string `json:"entry,omitempty"`
}

// HostsEntry is a line of /etc/hosts.
type HostsEntry struct {
	Address string   `json:"address"`
	Names   []string `json:"names"`
}

// IDRange is a range of user and group ids of the host.
type IDRange struct {
	First uint32 `json:"first"`
	Size  uint32 `json:"size"`
}

// Kernel is a guest kernel, unpacked on the host.
type Kernel struct {
	Name    string `json:"name,omitempty"` // of its image
	Arch    string `json:"arch,omitempty"` // as GOARCH; "" for the host's
	Release string `json:"release"`        // as uname -r
	Vmlinux string `json:"vmlinux"`        // amd64: uncompressed ELF with the PVH note; arm64: Image
	Modules string `json:"modules"`        // the directory that holds modules.dep
	Config  string `json:"config"`         // the kernel's .config
}

// MachineID is the machine id (machine-id(5)) of the instance with an id: unique,
// and the same in each of its runs.
func MachineID(id string) string {
	sum := sha256.Sum256([]byte("machine id of instance " + id))
	return hex.EncodeToString(sum[:16])
}

// Host is what a driver's plan depends on beside the specification. It is
// gathered once when berthd starts.
type Host struct {
	Arch     string // as GOARCH
	CPUs     int
	Memory   int64 // bytes
	CgroupV2 bool  // unified hierarchy alone
	// CgroupsHold says that nobody in a cgroup namespace can change what limits it, even
	// where the files are his: v2, mounted with nsdelegate (Linux 4.13).
	CgroupsHold bool
	TSCKHz      int // frequency of the time stamp counter, 0 where unknown

	UserNamespaces bool
	AppArmor       bool
	SELinux        bool
	Landlock       int // version of its interface, 0 without
	// ThermalThrottle lists directories of /sys that tell how hot processors run,
	// and so what runs beside a container.
	ThermalThrottle []string

	QEMU      map[string]string   // paths of the system emulators, by architecture
	CPUModels map[string][]string // those that each emulator knows; nil where unknown
	Virtiofsd string              // path, "" where there is none
	Swtpm     string              // path, "" where there is none
	KSM       bool                // the kernel can merge equal pages
	Zone      string              // path of the local time zone's file, "" for UTC
	UEFI      map[string]UEFI     // firmwares, by architecture
	KVM       bool                // proved by a probe guest
	KVMReason string              // one line: why KVM is, or is not, used

	Disk BlockDevice // that holds what instances write; zero where it is none, or several

	// UIDs and GIDs are the ids that all instances of an ordinary user's daemon share:
	// those of the user namespace in which it is root, from 0 and without a gap, in the
	// ranges in which that one has them, as no range of a namespace below it may reach
	// from one into the next (user_namespaces(7)). Nil for the host's root.
	UIDs, GIDs []IDRange
	// Controllers are those of cgroups that such a daemon may use, sorted; "freezer"
	// among them where it can pause. The host's root has them all.
	Controllers []string
}

// BlockDevice is a whole disk, not a partition, by its number.
type BlockDevice struct{ Major, Minor uint32 }

// UEFI are the two files of a UEFI firmware.
type UEFI struct {
	Code string // the program, which machines share
	Vars string // what a new machine's variables are a copy of
}

// Rootless reports whether the daemon is an ordinary user's.
func (h Host) Rootless() bool { return len(h.UIDs) > 0 }

// Controls reports whether the daemon may use a controller of cgroups.
func (h Host) Controls(controller string) bool {
	return !h.Rootless() || slices.Contains(h.Controllers, controller)
}

// Needs returns an error where the daemon may not use the controller of cgroups that
// something takes, with the way to it.
func (h Host) Needs(what, controller string) error {
	if h.Controls(controller) {
		return nil
	}
	way := "root can delegate it as docs/rootless.md says"
	if len(h.Controllers) == 0 {
		way = "start berthd where cgroups are the user's ('berth info' says more), or leave it out"
	} else if h.CgroupV2 {
		way = "root delegates it by Delegate=yes under [Service] in 'systemctl edit user@.service', from the next login on"
	}
	return fmt.Errorf("%s takes the cgroup controller %s, which is not delegated to this user: %s", what, controller, way)
}

// MachineUser is who the QEMUs of an ordinary user's daemon run as: the last of the ids
// that it has, which is neither the user's own nor one that an image has files of.
func (h Host) MachineUser() IDRange { return IDRange{First: h.SharedUsers().Size - 1, Size: 1} }

// SharedUsers returns the ids that all instances of an ordinary user's daemon share.
func (h Host) SharedUsers() IDRange {
	var uids, gids uint32
	for _, r := range h.UIDs {
		uids += r.Size
	}
	for _, r := range h.GIDs {
		gids += r.Size
	}
	return IDRange{Size: min(uids, gids)}
}
