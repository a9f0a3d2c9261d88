// Package instance says what it takes to run an instance, whatever its kind.
//
// # Words
//
// An instance is a record of the engine (api.Instance). A run is one life of
// it: from Create until Delete of a Handle. Each start of an instance is a new
// run; what outlives a run (the writable layer, the log, the record) belongs
// to the engine and is handed to the driver in Prepared.
//
// # Life of a run
//
//	Driver.Plan ─▶ Driver.Create ─▶ Handle.Start ─▶ Handle.Wait ─▶ Handle.Delete
//	                     │                                 ▲
//	                     └── berthd dies, a new one: Driver.Adopt ──┘
//
// Create makes everything ready: namespaces, cgroups, mounts, interfaces, the
// VM's process. After it the run exists, holds memory, and runs no code of the
// user's. Start lets the entrypoint go. Wait returns once the run has ended,
// however it ended. Delete takes back all that Create made; it may be called
// at any time, any number of times, and ends what still runs.
//
// A driver never looks anything up: paths, addresses, layers and limits
// arrive finished in Prepared. It keeps no state that it cannot find again
// after berthd was killed: what it needs stands in Prepared.RunDir or in the
// keeper.
//
// Drivers are kinds of one noun, so they are tested by one suite: package
// instancetest.
package instance

import (
	"context"
	"io"
	"time"

	"github.com/berthcloud/berth/api"
)

// Driver runs instances of one kind. All methods may be called concurrently,
// but the engine never works on one instance from two goroutines, except for
// Wait and the optional interfaces of a Handle, which run beside anything.
type Driver interface {
	// Kind returns the kind of instance this driver runs.
	Kind() api.Kind

	// Plan says what Create would do: an OCI config.json; QEMU's arguments and
	// QMP commands. It is a pure function: it reads no file and asks no
	// kernel. It fails with kind Invalid or Unsupported where the
	// specification cannot work on this host, and so doubles as validation.
	Plan(*Prepared, Host) (Plan, error)

	// Create makes a run and leaves it before its first instruction. On
	// failure nothing is left behind. The command's absence from the image is
	// reported here or by Start, as api.NoCommand or api.NotRunnable.
	Create(context.Context, *Prepared) (Handle, error)

	// Adopt finds the run of an instance again after a restart of berthd. The
	// Prepared is the one that Create got, read back from disk. It fails with
	// kind NotFound where no run exists. A run that has ended meanwhile is
	// adopted too: its Wait returns how it ended.
	Adopt(context.Context, *Prepared) (Handle, error)
}

// Handle is one run of an instance.
type Handle interface {
	// Start lets the entrypoint go. It returns once the entrypoint runs, with
	// what Status would say.
	Start(context.Context) (Status, error)

	// Signal sends a signal to the entrypoint. A run that has ended yields
	// kind Conflict.
	Signal(ctx context.Context, signal int) error

	// Stop asks the entrypoint to end by the signal, and ends it by force
	// after the grace. It returns once the run has ended; a run that has
	// already ended is a success. One that is deleted meanwhile yields kind
	// NotFound.
	Stop(ctx context.Context, signal int, grace time.Duration) error

	// Wait returns how the run ended, once it has ended. Any number of
	// callers may wait, at any time before Delete.
	Wait(context.Context) (api.Exit, error)

	// Status observes the run now.
	Status(context.Context) (Status, error)

	// Update changes the limits of the run to those given, live. It may be
	// called again with the same limits.
	Update(context.Context, api.Limits) error

	// Delete ends the run and takes back everything Create made.
	Delete(context.Context) error
}

// Status is what a driver observes of a run.
type Status struct {
	State   api.State    // Created, Running, Paused, Exited or Failed
	PID     int          // on the host; 0 once ended
	Created time.Time    // of the run
	Machine *api.Machine // of a VM: what was decided; nil for a container
	Notice  string       // one line worth telling, or ""
	Crashed bool         // it is Paused because its guest crashed, and is left so
}

// Plan is what a driver intends to do, as indented JSON that a person can
// read and a golden test can hold.
type Plan []byte

// Warmer is found by type assertion on a Driver: one that can prepare for a Create
// that will come soon.
type Warmer interface {
	// Warm returns when it is prepared. It is a hint, and may be canceled.
	Warm(context.Context) error
}

// Learner is found by type assertion on a Driver: one that can make the next start
// faster by what a start has shown.
type Learner interface {
	// Learn returns when there is nothing more to make. It works beside instances, and
	// may be canceled. An error concerns no instance.
	Learn(context.Context) error
}

// Templater is found by type assertion on a Driver: one that keeps saved machines, of
// which instances begin as copies.
type Templater interface {
	// Templates lists them, the one used last first.
	Templates(context.Context) ([]api.Template, error)
	// RemoveTemplate removes one. Instances that began as copies of it go on.
	RemoveTemplate(ctx context.Context, id string) error
}

// Explainer is found by type assertion on a Driver: one that has a choice of how to
// run an instance.
type Explainer interface {
	// Explain says what Plan would decide, why, and what each other choice would give
	// or need. It is a pure function. The state is left to the caller.
	Explain(*Prepared, Host) (api.Explanation, error)
}

// Layerer is found by type assertion on a Driver: one that can tell what an instance
// has changed in its root filesystem.
type Layerer interface {
	// LayerAtRest reports whether Layer needs no run; else an instance at rest is given
	// an idle one.
	LayerAtRest() bool

	// Layer writes the changes as the layer of an OCI image (image-spec, layer.md), or
	// with namesOnly the layer's headers. h is the instance's run, nil where it needs
	// none. What would write to the root filesystem is held back meanwhile. The files of
	// Furnished are left out. The stream of a VM is its guest's word, and not trusted.
	Layer(ctx context.Context, p *Prepared, h Handle, namesOnly bool, tar io.Writer) error
}

// DiskReader is found by type assertion on a Driver: one whose instances can read what
// the host's kernel must not, the filesystem of a disk that anybody has written.
type DiskReader interface {
	// ReadDisk writes the root filesystem on a further disk of an idle run as the layer
	// of an OCI image. What only a machine has that starts from it is left out or empty:
	// its id, its table of filesystems, Berth's own files. It returns what init is there,
	// "" for none. The stream is the guest's word, and not trusted, nor is the init.
	ReadDisk(ctx context.Context, p *Prepared, h Handle, disk Mount, tar io.Writer) (init string, err error)
}

// The abilities below are found by type assertion on a Handle. Where one is
// missing, the engine says that the kind cannot do it.

// Execer runs further commands in a run.
type Execer interface {
	// Exec runs the command and returns how it ended. The streams are its
	// standard streams; Exec returns after the last output was written. A
	// canceled context kills the command.
	Exec(context.Context, api.Exec, Streams) (api.Exit, error)
}

// Stepper carries out a step of a build in a run with Prepared.Step, in which nothing runs
// by itself. What it returns is said by a run that may be in the hands of anybody.
type Stepper interface {
	// Place mounts the one file of a tar stream over a path. It is kept in memory alone.
	Place(ctx context.Context, path string, tar io.Reader) error
	// Step runs a command. What it leaves running ends with it.
	Step(context.Context, api.Exec, Streams) (api.Exit, error)
	// Changes writes what was changed in the mount of Prepared.Mounts with an index, which
	// has an Image and no Entry, as the tar of an OCI layer that has times to the nanosecond
	// and the root; with -1 what was in the root filesystem, without the root.
	Changes(ctx context.Context, mount int, tar io.Writer) error
}

// Attacher connects to the standard streams of the entrypoint.
type Attacher interface {
	// Attach returns once the entrypoint has ended or ctx is canceled; the
	// streams carry what is written from now on. Several clients may be
	// attached. Attach calls ready (where not nil) once no output can be
	// missed any more, so that a caller can attach before it starts.
	Attach(ctx context.Context, s Streams, ready func()) error
}

// Consoler connects to the serial console of a machine.
type Consoler interface {
	// Console returns once the run has ended or ctx is canceled. The output begins
	// with the end of what was written before, and is what the guest sends: it may
	// hold any control sequence. Several clients may be connected. One that does not
	// read is cut off with kind Exhausted; input that the guest does not take is lost.
	Console(context.Context, Streams) error
}

// Displayer shows what a machine has on its display. Kind Unsupported: it has none.
type Displayer interface {
	// Screenshot returns it as a PNG image.
	Screenshot(context.Context) ([]byte, error)
	// VNC connects one more VNC client (RFB, RFC 6143), whose bytes the streams carry:
	// Stdin what it sends, Stdout what it gets. It returns once a side has closed.
	VNC(context.Context, Streams) error
	// VNCPassword returns what every VNC client has to know during this run.
	VNCPassword(context.Context) (string, error)
}

// Watcher looks after a run that can stand still without ending.
type Watcher interface {
	// Watch carries out the crash policy, until the run has ended or ctx is canceled.
	// Where that is to keep a crashed run, or the host cannot write its disk, it calls
	// changed with what is observed, and again when the run goes on.
	Watch(ctx context.Context, changed func(Status)) error
}

// Pauser freezes and thaws a run.
type Pauser interface {
	Pause(context.Context) error
	Unpause(context.Context) error
}

// Saver writes a run to disk, so that another one can go on from there.
type Saver interface {
	// Save writes all that the run has in memory to the new directory dir, which appears
	// when it is whole: in Prepared.SavedDir it is where the next Create goes on. The run
	// stands still meanwhile, and goes on afterwards unless it is to end. Where Save
	// fails, nothing is left of dir and the run goes on. Kind Unsupported: it cannot be
	// saved, and was not touched.
	Save(ctx context.Context, dir string, o SaveOptions) error
}

// SaveOptions say what Save does beside saving the memory.
type SaveOptions struct {
	Disks   bool // the disks are saved too, as they are at that moment
	Volumes bool // and with them the volumes that are disks and that it writes to; without, a run that has such is not saved with its disks
	End     bool // the run ends once it is saved; else it goes on, or stays paused
	Copy    bool // another instance is to go on from there: kind Unsupported where that could not become one of its own
}

// DiskSaver is found by type assertion on a Driver: one that can tell an instance's own
// disks from all else, while it is at rest.
type DiskSaver interface {
	// SaveDisks copies them to the new directory dir, which appears when it is whole, as
	// Saver.Save with its option Disks does beside the memory.
	SaveDisks(ctx context.Context, p *Prepared, dir string) error
	// PutDisks moves what is in such a directory into the place of the instance's own disks,
	// and of volumes that Prepared.Mounts has. It may be called again. Create does that with what it finds in SavedDir.
	PutDisks(ctx context.Context, p *Prepared, dir string) error
	// Copyable says why another instance cannot go on from the memory that is saved in a
	// directory; nil where it can.
	Copyable(dir string) error
}

// Freezer holds a run still as a whole, with what it keeps on its disks at rest.
type Freezer interface {
	// Freeze returns once nothing moves. thaw lets the run go on.
	Freeze(context.Context) (thaw func() error, err error)
}

// Statser measures a run.
type Statser interface {
	Stats(context.Context) (api.Stats, error)
}

// Topper lists the processes of a run.
type Topper interface {
	Top(context.Context) (api.Top, error)
}

// Copier moves files between a run's root filesystem, as the run sees it, and
// the host, as tar streams. Paths are absolute and resolved inside the
// instance: a symbolic link never leads to a file of the host.
type Copier interface {
	// CopyIn unpacks the tar stream into the existing directory dir.
	CopyIn(ctx context.Context, dir string, tar io.Reader) error
	// CopyOut packs the file or directory path; names in the tar begin with
	// path's last element.
	CopyOut(ctx context.Context, path string, tar io.Writer) error
}

// Streams are the standard streams of a command. Nil fields are not
// connected.
type Streams struct {
	Stdin  io.Reader       // its end closes the command's standard input
	Stdout io.Writer       // with a terminal, all output
	Stderr io.Writer       // without a terminal
	Resize <-chan api.Size // with a terminal: each new size
}
