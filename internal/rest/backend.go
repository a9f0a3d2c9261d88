package rest

import (
	"context"
	"io"
	"net"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/engine"
	"github.com/berthcloud/berth/internal/instance"
)

// Backend is what the front end translates to: an engine, and the service of builds
// beside it, seen through one small interface per group of operations, so that a test can
// put something else in the place of one.
type Backend struct {
	Records    Records
	Lives      Lives
	Snapshots  Snapshots
	Insides    Insides
	Consoles   Consoles
	Images     Images
	Operations Operations
	Work       Work
	Volumes    Volumes
	Networks   Networks
	Host       Host
	Builds     Builds

	UntrustedBuilds Builds // whose steps run in VMs
}

// Engine returns the Backend of an engine, which has neither Builds nor UntrustedBuilds.
func Engine(e *engine.Engine) Backend {
	return Backend{Records: e, Lives: e, Snapshots: e, Insides: e, Consoles: e, Images: e, Operations: e, Work: e, Volumes: e, Networks: e, Host: e}
}

// Records keeps the records of instances.
type Records interface {
	Create(context.Context, api.Spec) (api.Instance, error)
	Get(ctx context.Context, ref string) (api.Instance, error)
	Explain(ctx context.Context, ref string) (api.Explanation, error)
	List(context.Context, engine.ListOptions) ([]api.Instance, error)
	Update(ctx context.Context, ref string, c engine.Changes) (api.Instance, error)
	Rename(ctx context.Context, ref, name string) error
	Remove(ctx context.Context, ref string, o engine.RemoveOptions) error
}

// Lives starts and ends instances.
type Lives interface {
	Run(ctx context.Context, spec api.Spec, created func(api.Instance)) (api.Instance, error)
	Start(ctx context.Context, ref string) (api.Instance, error)
	Stop(ctx context.Context, ref string, o engine.StopOptions) error
	Restart(ctx context.Context, ref string, o engine.StopOptions) error
	Kill(ctx context.Context, ref, signal string) error
	Pause(ctx context.Context, ref string) error
	Unpause(ctx context.Context, ref string) error
	Suspend(ctx context.Context, ref string) error
	Resume(ctx context.Context, ref string) (api.Instance, error)
	Wait(ctx context.Context, ref, condition string) (api.Exit, error)
}

// Snapshots keeps instances as they were, and makes others of them.
type Snapshots interface {
	CreateSnapshot(ctx context.Context, ref string, o engine.SnapshotOptions) (api.Snapshot, error)
	Snapshots(ctx context.Context, ref string) ([]api.Snapshot, error)
	RestoreSnapshot(ctx context.Context, ref, name string) (api.Instance, error)
	RemoveSnapshot(ctx context.Context, ref, name string) error
	Clone(ctx context.Context, ref string, o engine.CloneOptions) (api.Instance, error)
}

// Insides reaches into instances.
type Insides interface {
	Attach(ctx context.Context, ref string, s instance.Streams, ready func()) (api.Exit, error)
	Exec(ctx context.Context, ref string, x api.Exec, s instance.Streams) (api.Exit, error)
	Logs(ctx context.Context, ref string, o engine.LogOptions, f func(api.LogLine) error) error
	Stats(ctx context.Context, ref string) (api.Stats, error)
	Top(ctx context.Context, ref string) (api.Top, error)
	Diff(ctx context.Context, ref string) ([]api.Change, error)
	CopyIn(ctx context.Context, ref, dir string, tar io.Reader) error
	CopyOut(ctx context.Context, ref, path string, tar io.Writer) error
}

// Consoles reaches what a machine shows outwards.
type Consoles interface {
	Console(ctx context.Context, ref string, s instance.Streams) (api.Exit, error)
	Screenshot(ctx context.Context, ref string) ([]byte, error)
	VNC(ctx context.Context, ref string, s instance.Streams) (api.Exit, error)
	VNCAccess(ctx context.Context, ref string) (api.VNCAccess, error)
}

// Images keeps images.
type Images interface {
	Images(context.Context) ([]api.Image, error)
	Image(ctx context.Context, name string) (api.Image, error)
	RemoveImage(ctx context.Context, name string, force bool) error
	TagImage(ctx context.Context, name, newName string) error
	SBOM(ctx context.Context, name string) (api.SBOM, error)
	ExportImages(ctx context.Context, names []string, format string, w io.Writer) error
}

// Work starts what takes longer than a request should.
type Work interface {
	StartPull(context.Context, engine.PullOptions) (api.Operation, error)
	StartPush(context.Context, engine.PushOptions) (api.Operation, error)
	StartBootstrap(context.Context, engine.BootstrapOptions) (api.Operation, error)
	StartKernel(ctx context.Context, flavor, platform string) (api.Operation, error)
	StartBase(ctx context.Context, platform string) (api.Operation, error)
	StartImport(context.Context, engine.ImportOptions) (api.Operation, error)
	StartCommit(context.Context, engine.CommitOptions) (api.Operation, error)
	StartConvert(context.Context, engine.ConvertOptions) (api.Operation, error)
	StartCheck(context.Context, engine.CheckOptions) (api.Operation, error)
}

// Builds makes images of Dockerfiles.
type Builds interface {
	// Build carries the bytes of a client that speaks BuildKit's control protocol, until
	// either side leaves, and closes conn.
	Build(ctx context.Context, conn net.Conn) error
	// Prune removes what of the cache no build uses now, and returns the bytes freed.
	Prune(context.Context) (int64, error)
}

// Operations looks after the work that was started.
type Operations interface {
	Operation(ctx context.Context, id string) (api.Operation, error)
	Operations(context.Context) ([]api.Operation, error)
	CancelOperation(ctx context.Context, id string) error
	WatchOperation(ctx context.Context, id string, f func(api.Operation) error) error
}

// Volumes keeps volumes.
type Volumes interface {
	Volumes(context.Context) ([]api.Volume, error)
	Volume(ctx context.Context, name string) (api.Volume, error)
	CreateVolume(ctx context.Context, name string, size int64, labels map[string]string) (api.Volume, error)
	RemoveVolume(ctx context.Context, name string, force bool) error
}

// Networks keeps networks.
type Networks interface {
	Networks(context.Context) ([]api.Network, error)
	Network(ctx context.Context, name string) (api.Network, error)
	CreateNetwork(ctx context.Context, want api.Network) (api.Network, error)
	RemoveNetwork(ctx context.Context, name string, force bool) error
}

// Host speaks of the host as a whole.
type Host interface {
	Info(context.Context) (api.Info, error)
	Version() api.VersionInfo
	Events(ctx context.Context, o engine.EventOptions, f func(api.Event) error) error
	Prune(context.Context, engine.PruneOptions) (api.Pruned, error)
	Templates(context.Context) ([]api.Template, error)
	Usage(context.Context) (api.Usage, error)
}
