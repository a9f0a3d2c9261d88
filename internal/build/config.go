package build

import (
	"log/slog"
	"path/filepath"

	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/instance/vm"
	"github.com/berthcloud/berth/internal/keeper"
	"github.com/berthcloud/berth/internal/network"
)

// Config says where builds live. A builder gets it as JSON on its standard input, whose
// end is the builder's.
type Config struct {
	Root    string        // ROOT/build
	Run     string        // RUN/build
	Bin     string        // directory of Berth's programs
	Cgroup  string        // that steps' cgroups go under, as in /berth
	Version string        // of Berth
	VM      bool          // steps run in VMs: builds are untrusted
	Hosts   string        // directory of what is to be known of registries; see image.Options
	Host    instance.Host // what a step's plan depends on

	// Of VMs: paths of the guest's agent, by architecture, how many templates are kept and
	// who makes them.
	Agents       map[string]string
	Templates    int
	TemplateUser uint32
}

// StoreSocket is where the daemon shows its store to a builder.
func (c *Config) StoreSocket() string { return filepath.Join(c.Run, "store.sock") }

// Socket is where the builder listens for builds.
func (c *Config) Socket() string { return filepath.Join(c.Run, "builder.sock") }

// StepsDir holds a directory for each step that runs.
func (c *Config) StepsDir() string { return filepath.Join(c.Run, "steps") }

// Tmp is for files that end with the builder.
func (c *Config) Tmp() string { return filepath.Join(c.Root, "tmp") }

// Runtime is the directory of the runtime's state.
func (c *Config) Runtime() string { return filepath.Join(c.Run, "oci") }

// Machines is what the driver of VMs is made of.
func (c *Config) Machines(k *keeper.Client, log *slog.Logger) vm.Config {
	return vm.Config{
		Keeper: k, Launcher: filepath.Join(c.Bin, "berth-qemu"), Agents: c.Agents, Cache: filepath.Join(c.Root, "machines"), Host: c.Host,
		Templates: c.Templates, TemplateUser: c.TemplateUser, Cgroup: c.Cgroup, Log: log,
	}
}

// SnapshotsDir is where the snapshotter is.
func SnapshotsDir(root string) string { return filepath.Join(root, "build", "snapshots") }

// Step is what the daemon gives to a step of a build.
type Step struct {
	Users    instance.IDRange  `json:"users"`
	Endpoint *network.Endpoint `json:"endpoint,omitempty"` // nil where it wants none
	Kernel   instance.Kernel   `json:"kernel,omitzero"`    // of VMs
}

// Layer is a layer of an image and, where it is known, its EROFS image.
type Layer struct {
	Digest string `json:"digest,omitempty"` // as distributed
	DiffID string `json:"diff_id"`          // of its uncompressed tar
	EROFS  string `json:"erofs,omitempty"`
	Path   string `json:"path,omitempty"` // of the EROFS image
	Size   int64  `json:"size,omitempty"` // of the EROFS image, in bytes
}
