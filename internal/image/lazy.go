package image

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image/lazy"
)

// LazyOptions say how images are used before they have arrived. Without a Program they
// never are.
type LazyOptions struct {
	Program lazy.Program
	Run     string       // directory of what is mounted
	Log     *slog.Logger // is told when what arrives behind does not
}

// arrival is the layers of a pull that are used before they have arrived. On disk it is
// a directory, which ends with it:
//
//	ROOT/lazy/ID/arrival.json   what it is: an arrivalRecord
//	ROOT/lazy/ID/HEX            a layer as distributed, with holes
//
// Its server mounts them on RUN/lazy/ID-RANDOM: each server elsewhere, because what was
// read from one that has died fails for ever.
type arrival struct {
	id  string
	rec arrivalRecord

	unwanted atomic.Bool // nothing leads to it any more

	mu    sync.Mutex // held while a server is started
	mount string     // "" before
	err   error      // why the last start failed
	after time.Time  // the next start is tried
}

// arrivalRecord is what is kept of an arrival.
type arrivalRecord struct {
	Ref      string          `json:"ref"` // full
	Insecure bool            `json:"insecure,omitempty"`
	Layers   []arrivingLayer `json:"layers"`
}

// arrivingLayer is a layer that is used before it has arrived.
type arrivingLayer struct {
	lazy.Layer
	DiffID digest.Digest `json:"diff_id"`
}

const arrivalFile = "arrival.json"

func (l arrivingLayer) descriptor() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: l.Type, Digest: l.Digest, Size: l.Size, Annotations: map[string]string{lazy.TOCAnnotation: l.TOC.String()}}
}

// arrivals are those of a store.
type arrivals struct {
	end  context.CancelFunc
	life context.Context // of the watches
	all  sync.WaitGroup  // the watches

	mu     sync.Mutex
	layers map[digest.Digest]*arrivingAt
}

// arrivingAt is where a layer arrives.
type arrivingAt struct {
	*arrival
	arrivingLayer
	gone chan struct{} // closed when it is ordinary, or is not wanted any more
}

func newArrivals() *arrivals {
	a := &arrivals{layers: map[digest.Digest]*arrivingAt{}}
	a.life, a.end = context.WithCancel(context.Background())
	return a
}

// arriving returns where a layer arrives, nil where it does not.
func (s *Store) arriving(layer digest.Digest) *arrivingAt {
	s.arrivals.mu.Lock()
	defer s.arrivals.mu.Unlock()
	return s.arrivals.layers[layer]
}

// awaitLayers waits until layers have arrived, for who needs all of them.
func (s *Store) awaitLayers(ctx context.Context, layers []ocispec.Descriptor) error {
	for _, l := range layers {
		at := s.arriving(l.Digest)
		if at == nil {
			continue
		}
		select {
		case <-at.gone:
		case <-ctx.Done():
			return api.E("", api.Canceled, "", ctx.Err())
		}
	}
	return nil
}

func (s *Store) lazyDir(id string) string { return filepath.Join(s.root, "lazy", id) }

// recallArrivals goes on with what arrived in the time of an earlier store.
func (s *Store) recallArrivals() error {
	if s.opt.Lazy.Program.Path == "" {
		return nil
	}
	entries, err := os.ReadDir(s.lazyDir(""))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		a := &arrival{id: e.Name()}
		b, err := os.ReadFile(filepath.Join(s.lazyDir(a.id), arrivalFile))
		if err == nil {
			err = json.Unmarshal(b, &a.rec)
		}
		if err != nil { // one that was never used, because it was not whole
			if err := os.RemoveAll(s.lazyDir(a.id)); err != nil {
				return err
			}
			continue
		}
		s.watch(a)
	}
	return err
}

// leaveArrivals ends what looks after arrivals, and the servers that nobody needs.
func (s *Store) leaveArrivals() error {
	s.arrivals.end()
	s.arrivals.all.Wait()
	if s.opt.Lazy.Run == "" {
		return nil
	}
	dirs, err := filepath.Glob(filepath.Join(s.opt.Lazy.Run, "*"))
	for _, dir := range dirs {
		err = errors.Join(err, lazy.Release(dir))
	}
	return err
}

// newArrival makes the layers usable that are not here yet and can be, and returns which.
// They are those of the image with a full name.
//
// Errors: Unsupported where they cannot, with the reason; Corrupt and Invalid where one is
// not what the manifest says; those of the registry.
func (s *Store) newArrival(ctx context.Context, full string, access Access, layers []arrivingLayer) (err error) {
	if s.opt.Lazy.Program.Path == "" {
		return api.E("", api.Unsupported, "", errors.New("this daemon starts nothing from what has not arrived"))
	}
	a := &arrival{id: strings.ToLower(rand.Text()[:12]), rec: arrivalRecord{Ref: full, Insecure: access.Insecure, Layers: layers}}
	if err := os.MkdirAll(s.lazyDir(a.id), 0o700); err != nil {
		return diskFull(err)
	}
	if err = s.serve(ctx, a, access); err == nil {
		err = a.write(s.lazyDir(a.id))
	}
	if err != nil {
		return errors.Join(err, s.drop(a))
	}
	s.watch(a)
	return nil
}

// arrive has those layers arrive behind that are not here and can be used before.
func (p *puller) arrive(ctx context.Context, desc ocispec.Descriptor, m *ocispec.Manifest, diffIDs []digest.Digest) error {
	if err := p.s.setLabels(ctx, desc.Digest, manifestLabels(*m)); err != nil { // a collection sees from now on what is wanted
		return err
	}
	var missing []arrivingLayer
	why := "its layers have no table of contents that its manifest tells of (eStargz)"
	for i, l := range m.Layers {
		if _, err := p.s.content.Info(ctx, l.Digest); err == nil || p.s.arriving(l.Digest) != nil {
			why = "its layers are here"
			continue
		}
		toc := digest.Digest(l.Annotations[lazy.TOCAnnotation])
		again := slices.ContainsFunc(missing, func(o arrivingLayer) bool { return o.Digest == l.Digest })
		if toc.Validate() != nil || checkDescriptor(l) != nil || again {
			continue
		}
		missing = append(missing, arrivingLayer{Layer: lazy.Layer{Digest: l.Digest, Size: l.Size, Type: l.MediaType, TOC: toc}, DiffID: diffIDs[i]})
	}
	if len(missing) > 0 {
		err := p.s.newArrival(ctx, p.full, p.access, missing)
		if !api.IsKind(err, api.Unsupported) {
			return err
		}
		why = err.Error()
	}
	if p.progress != nil && why != "" {
		p.progress(api.Progress{Part: Familiar(p.full), Stage: StageOutput, Text: "pulled as a whole: " + why})
	}
	return nil
}

// write makes an arrival one that is gone on with.
func (a *arrival) write(dir string) error {
	b, err := json.Marshal(a.rec)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, arrivalFile)
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return diskFull(err)
	}
	return os.Rename(path+".new", path)
}

// drop unmounts an arrival and removes what it has. What is being read of it stays until
// nobody reads any more.
func (s *Store) drop(a *arrival) error {
	err := os.RemoveAll(s.lazyDir(a.id))
	for _, dir := range s.mounts(a) {
		err = errors.Join(err, lazy.Detach(dir))
	}
	return err
}

// mounts returns where an arrival is mounted, or was.
func (s *Store) mounts(a *arrival) []string {
	found, _ := filepath.Glob(filepath.Join(s.opt.Lazy.Run, a.id+"-*")) // no pattern that can be malformed
	return found
}

// retry is how long after a server that did not start another is tried.
const retry = 10 * time.Second

// serve sees to it that an arrival has a server: the one that it has had, or a new one.
func (s *Store) serve(ctx context.Context, a *arrival, access Access) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, dir := range s.mounts(a) {
		if _, err := lazy.ReadStatus(dir); err == nil {
			a.mount = dir
			return nil
		}
		if err := lazy.Detach(dir); err != nil {
			return err
		}
	}
	if time.Now().Before(a.after) {
		return a.err
	}
	if a.mount != "" {
		s.opt.Lazy.Log.Warn("the server of an image's layers has ended; what reads from them gets errors until it is started anew", "image", Familiar(a.rec.Ref))
	}
	dir := filepath.Join(s.opt.Lazy.Run, a.id+"-"+strings.ToLower(rand.Text()[:6]))
	if a.err = s.startServer(ctx, a, dir, access); a.err != nil {
		a.after = time.Now().Add(retry)
		return a.err
	}
	a.mount, a.after = dir, time.Time{}
	return nil
}

// startServer starts a server on a directory.
func (s *Store) startServer(ctx context.Context, a *arrival, dir string, access Access) error {
	q := &lazy.Request{
		Ref: a.rec.Ref, Limits: s.opt.Limits, Insecure: a.rec.Insecure, InsecureHosts: s.opt.Insecure, Hosts: s.opt.Hosts,
		Stall: min(s.opt.Stall, lazyStall),
	}
	var err error
	if q.Credentials, err = s.credentialsOf(ctx, a.rec.Ref, access); err != nil {
		return err
	}
	var files []*os.File
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	for _, l := range a.rec.Layers {
		q.Layers = append(q.Layers, l.Layer)
		f, err := os.OpenFile(filepath.Join(s.lazyDir(a.id), l.Digest.Encoded()), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return diskFull(err)
		}
		files = append(files, f)
		outline, err := s.temp("outline-*")
		if err != nil {
			return err
		}
		files = append(files, outline)
		if err := os.Remove(outline.Name()); err != nil {
			return err
		}
	}
	return s.opt.Lazy.Program.Start(ctx, dir, q, files)
}

// lazyStall is how long at most a registry may send nothing to somebody who waits for a
// file.
const lazyStall = 15 * time.Second

// credentialsOf returns what the hosts of an image's registry are told, for a server that
// cannot ask.
func (s *Store) credentialsOf(ctx context.Context, full string, access Access) (map[string]lazy.Credential, error) {
	named, err := reference.ParseNormalizedNamed(full)
	if err != nil {
		return nil, err
	}
	own := reference.Domain(named)
	found, err := endpoints(ctx, s.opt.Hosts, own)
	if err != nil {
		return nil, err
	}
	if own == "docker.io" {
		own = hubHost
	}
	hosts := []string{own}
	for _, e := range found {
		hosts = append(hosts, e.Host)
	}
	known, creds := map[string]lazy.Credential{}, credentials{dir: s.opt.DockerConfig}
	for _, host := range hosts {
		c := lazy.Credential{User: access.Username, Secret: access.Secret}
		if host != own || c == (lazy.Credential{}) {
			if c.User, c.Secret, err = creds.lookup(host); err != nil {
				return nil, err
			}
		}
		known[host] = c
	}
	return known, nil
}

// lazyLayer returns a layer that arrives, ready to be read from.
func (s *Store) lazyLayer(ctx context.Context, at *arrivingAt) (Layer, error) {
	fail := func(err error) (Layer, error) {
		return Layer{}, api.E("", "", "", fmt.Errorf("layer %s has not arrived yet: %w", short(at.Digest), err))
	}
	if err := s.serve(ctx, at.arrival, Access{}); err != nil {
		return fail(err)
	}
	at.mu.Lock()
	path := filepath.Join(at.mount, at.Digest.Encoded())
	at.mu.Unlock()
	info, err := os.Stat(path)
	if err != nil {
		return fail(err)
	}
	return Layer{
		DiffID: at.DiffID.String(), Digest: at.Digest.String(), EROFS: digest.FromString(path).String(),
		Path: path, Size: info.Size(), Packed: at.Size,
	}, nil
}
