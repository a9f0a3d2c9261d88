// Package image keeps images: it imports, pulls, names, lists, exports and
// removes them, and turns their layers into EROFS images that both kinds of
// instance mount.
//
// It stands on containerd's content store, metadata database (bbolt), leases
// and garbage collector, all below one directory:
//
//	ROOT/content/blobs/sha256/…   manifests, configs, layers as distributed,
//	                              and each layer once more as an EROFS image
//	ROOT/content/ingest/…         downloads that are not complete
//	ROOT/meta.db                  names, labels, leases
//	ROOT/tmp/…                    files being written; emptied by Open
//	ROOT/kernels/…                kernels, extracted for QEMU; a cache
//	ROOT/lazy/…                   layers that are used before they have arrived (package lazy)
//
// What keeps content alive: a name keeps its manifest; labels of the form
// containerd.io/gc.ref.content.* lead from a manifest to its config and
// layers, and from a layer to its EROFS image. An instance holds the image it
// was made from, so that the name may go or move to another image meanwhile:
// its record says so, and the collector is told. Work in progress has leases that
// expire.
package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/log"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image/layer"
	"github.com/berthcloud/berth/internal/image/trust"
)

// Namespace is containerd's: the database wants one, Berth needs no second.
const Namespace = "berth"

// SnapshotterName is the name of Options.Snapshotter in the database: what tells BuildKit
// that a layer is the upper directory of an overlay.
const SnapshotterName = "overlayfs"

// Options of a Store. The zero value is the default.
type Options struct {
	// Limits bound what one layer may expand to.
	Limits layer.Limits
	// DockerConfig is the directory of the docker client's config.json, which
	// holds registry credentials. Default: $DOCKER_CONFIG, else ~/.docker.
	DockerConfig string
	// Insecure names registries, as host or host:port, that are spoken to over
	// plain http. Those on a loopback address always may be.
	Insecure []string
	// Policy is the file that says which images need which signatures (package
	// trust), read at each pull. Without one, or where it is not there, none do.
	Policy string
	// Verifier verifies signatures. It is needed where there is a policy.
	Verifier trust.Verifier
	// Hosts is a directory of files HOST/hosts.toml, as containerd reads them, which name
	// the mirrors, certificates and plain http of registries. They are read each time.
	Hosts string
	// Stall is how long a registry may send nothing. Default: one minute.
	Stall time.Duration
	// Converter reads disks in other formats than raw. Without one only raw disks
	// are imported and exported.
	Converter Converter
	// Agents are paths of the guest agent, by architecture, for disks that are made here.
	Agents map[string]string
	// Lazy says how images are used before they have arrived.
	Lazy LazyOptions
	// Snapshotter keeps the directories of builds, whose books and garbage collection are
	// the store's.
	Snapshotter snapshots.Snapshotter
}

// Store is a store of images. Its methods may be called concurrently. Errors
// are *api.Error. Only one process at a time can have a root open.
type Store struct {
	root    string
	opt     Options
	bolt    *bolt.DB
	db      *metadata.DB
	content content.Store
	images  *nameStore
	leases  leases.Manager

	arrivals *arrivals

	// placing is read-locked between putting a file under content/blobs and
	// telling the database, and write-locked while garbage is collected, which
	// would take such a file for garbage.
	placing sync.RWMutex

	joining sync.Mutex // held while a disk is made of its chunks

	mu         sync.Mutex
	converting map[string]*conversion // by diff id
	holds      map[string]string      // manifest of each holder
	resolved   map[string]Image       // by digest of a manifest or index
	collected  int                    // how often resolved was emptied
}

// Open opens the store below root, making it where it does not exist.
func Open(root string, opt Options) (*Store, error) {
	fail := func(kind api.ErrorKind, err error) (*Store, error) {
		return nil, api.E("open the image store", kind, root, err)
	}
	if opt.Stall == 0 {
		opt.Stall = time.Minute
	}
	tmp := filepath.Join(root, "tmp")
	if err := os.RemoveAll(tmp); err != nil {
		return fail("", err)
	}
	for _, dir := range []string{root, tmp, filepath.Join(root, "content")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fail("", err)
		}
	}
	// containerd's libraries log by themselves; what matters they return as well.
	if err := log.SetLevel("error"); err != nil {
		return fail("", err)
	}
	blobs, err := local.NewStore(filepath.Join(root, "content"))
	if err != nil {
		return fail("", err)
	}
	db, err := bolt.Open(filepath.Join(root, "meta.db"), 0o600, &bolt.Options{
		Timeout:      time.Second,
		FreelistType: bolt.FreelistMapType,
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return fail(api.InUse, errors.New("another berthd has it open; stop that one, or choose another --root"))
	} else if err != nil {
		return fail("", err)
	}
	s := &Store{
		root: root, opt: opt, bolt: db, arrivals: newArrivals(),
		converting: map[string]*conversion{}, holds: map[string]string{}, resolved: map[string]Image{},
	}
	s.db = metadata.NewDB(db, blobs, opt.snapshotters())
	s.db.RegisterCollectibleResource(holdResource, collector{s})
	if err := s.db.Init(s.context(context.Background())); err != nil {
		db.Close()
		return fail("", err)
	}
	s.content = s.db.ContentStore()
	s.images = &nameStore{Store: metadata.NewImageStore(s.db)}
	s.leases = metadata.NewLeaseManager(s.db)
	if err := s.recallArrivals(); err != nil {
		return fail("", errors.Join(err, s.Close()))
	}
	return s, nil
}

func (o *Options) snapshotters() map[string]snapshots.Snapshotter {
	if o.Snapshotter == nil {
		return nil
	}
	return map[string]snapshots.Snapshotter{SnapshotterName: o.Snapshotter}
}

// Close closes the store. What layers are read from that have not arrived stays as long as
// somebody reads. No other method may be running or called later.
func (s *Store) Close() error {
	return api.E("close the image store", "", s.root, errors.Join(s.leaveArrivals(), s.bolt.Close()))
}

func (s *Store) context(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, Namespace)
}

// blobPath is where the content store keeps a blob. The layout is the OCI
// image layout's and fixed.
func (s *Store) blobPath(d string) string {
	algorithm, hex, _ := strings.Cut(d, ":")
	return filepath.Join(s.root, "content", "blobs", algorithm, hex)
}

// temp makes a file for work that ends in a rename.
func (s *Store) temp(pattern string) (*os.File, error) {
	f, err := os.CreateTemp(filepath.Join(s.root, "tmp"), pattern)
	if err != nil {
		return nil, fmt.Errorf("make a temporary file: %w", err)
	}
	return f, nil
}

// discard closes and removes a temporary file that was not renamed.
func discard(f *os.File) {
	f.Close()
	os.Remove(f.Name())
}

// Progress is told how far the parts of an operation are. It may be called
// concurrently and must return soon. It may be nil.
type Progress func(api.Progress)

func (p Progress) report(part, stage string, current, total int64) {
	if p != nil {
		p(api.Progress{Part: part, Stage: stage, Current: current, Total: total})
	}
}

// counter returns a function that adds to how far a part is.
func (p Progress) counter(part, stage string, total int64) func(n int64) {
	var at atomic.Int64
	return func(n int64) { p.report(part, stage, at.Add(n), total) }
}

// together makes of the progress of blobs that of one part with all their bytes.
func (p Progress) together(part string, blobs []ocispec.Descriptor) Progress {
	total := int64(0)
	for _, b := range blobs {
		total += b.Size
	}
	var mu sync.Mutex
	sum, of := int64(0), map[string]int64{}
	return func(one api.Progress) {
		mu.Lock()
		sum += one.Current - of[one.Part]
		of[one.Part] = one.Current
		at := sum
		mu.Unlock()
		stage := one.Stage
		if stage == StageDone && at < total {
			return
		}
		p.report(part, stage, at, total)
	}
}

// The stages of Progress.
const (
	StageWaiting     = "waiting"
	StageDownloading = "downloading"
	StageUploading   = "uploading"
	StageReading     = "reading"
	StageConverting  = "converting"
	StageDone        = "done"
	StageExists      = "exists"
	StageArriving    = "arriving" // behind, while the image is used
	StageOutput      = "output"   // Text has a line of a program's output
)
