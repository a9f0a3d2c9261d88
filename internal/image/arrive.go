package image

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image/lazy"
)

// look is how often the servers of layers that arrive are asked how far they are, and
// grace how long their mounts stay when all has arrived: a start that is under way may
// have their paths in its hands.
const (
	look  = 300 * time.Millisecond
	grace = 10 * time.Second
)

// watch looks after an arrival until all of it is in the store.
func (s *Store) watch(a *arrival) {
	s.arrivals.mu.Lock()
	for _, l := range a.rec.Layers {
		s.arrivals.layers[l.Digest] = &arrivingAt{arrival: a, arrivingLayer: l, gone: make(chan struct{})}
	}
	s.arrivals.mu.Unlock()
	s.arrivals.all.Go(func() {
		ctx := s.context(s.arrivals.life)
		w := watcher{s: s, a: a}
		for !w.look(ctx) {
			select {
			case <-ctx.Done():
				return // the server goes on
			case <-time.After(look):
			}
		}
		s.forgetResolved()
		if !a.unwanted.Load() {
			select {
			case <-ctx.Done():
			case <-time.After(grace):
			}
		}
		if err := s.drop(a); err != nil {
			s.opt.Lazy.Log.Error("remove what layers were read from before they had arrived", "image", Familiar(a.rec.Ref), "error", err)
		}
	})
}

// watcher watches an arrival.
type watcher struct {
	s    *Store
	a    *arrival
	told string // the last problem that was told
}

// look takes in what has arrived, and reports whether nothing is left to do.
func (w *watcher) look(ctx context.Context) bool {
	if err := w.s.serve(ctx, w.a, Access{}); err != nil {
		w.tell(ctx, err.Error())
	}
	w.a.mu.Lock()
	mount := w.a.mount
	w.a.mu.Unlock()
	status, err := lazy.ReadStatus(mount)
	if err != nil {
		status = lazy.Status{} // the next look starts another
	}
	left, problem := 0, ""
	for _, l := range w.a.rec.Layers {
		at := w.s.arriving(l.Digest)
		if at == nil || at.arrival != w.a {
			continue
		}
		if _, err := w.s.erofsOf(ctx, l.Digest); err == nil { // a pull has been faster
			w.s.settled(at)
			continue
		}
		left++
		for _, st := range status.Layers {
			switch {
			case st.Digest != l.Digest:
			case st.Whole:
				if err := w.s.takeIn(ctx, l, w.a); err == nil {
					w.s.settled(at)
					left--
				} else {
					problem = err.Error()
				}
			case st.Error != "":
				problem = st.Error
			}
		}
	}
	w.tell(ctx, problem)
	return left == 0
}

// tell logs a problem once, and that it is over.
func (w *watcher) tell(ctx context.Context, problem string) {
	if problem == w.told || ctx.Err() != nil {
		return
	}
	log := w.s.opt.Lazy.Log.With("image", Familiar(w.a.rec.Ref))
	if w.told = problem; problem == "" {
		log.Info("what is missing of an image arrives again")
		return
	}
	log.Warn("what is missing of an image does not arrive", "error", problem)
}

// settled says that a layer does not arrive any more.
func (s *Store) settled(at *arrivingAt) {
	s.arrivals.mu.Lock()
	defer s.arrivals.mu.Unlock()
	if s.arrivals.layers[at.Digest] == at {
		delete(s.arrivals.layers, at.Digest)
		close(at.gone)
	}
}

// takeIn makes a layer of which a server says that it is whole an ordinary one. It is
// copied, because the server can still write to the file, and checked as if it came from
// the registry at once.
func (s *Store) takeIn(ctx context.Context, l arrivingLayer, a *arrival) error {
	ctx, done, err := s.work(ctx)
	if err != nil {
		return err
	}
	defer done()
	f, err := os.Open(filepath.Join(s.lazyDir(a.id), l.Digest.Encoded()))
	if err != nil {
		return err
	}
	defer f.Close()
	desc := l.descriptor()
	ref := "arrived-" + l.Digest.Encoded()
	w, err := content.OpenWriter(ctx, s.content, content.WithRef(ref), content.WithDescriptor(desc))
	if err == nil {
		err = w.Truncate(0) // of one that was interrupted
		if err == nil {
			_, err = io.CopyBuffer(onlyWriter{w}, contextReader{ctx, io.NewSectionReader(f, 0, l.Size)}, make([]byte, 1<<20))
		}
		if err == nil {
			err = w.Commit(ctx, l.Size, l.Digest, content.WithLabels(sourceLabels(a.rec.Ref)))
		}
		w.Close()
		if errdefs.IsFailedPrecondition(err) {
			err = api.E("", api.Corrupt, "", fmt.Errorf("what the registry sent is not %s; the image or the registry is damaged", short(l.Digest)))
		}
	}
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return diskFull(err)
	}
	return s.convert(ctx, desc, l.DiffID, nil)
}

// dropUnwanted ends the arrivals of layers that nothing leads to any more.
func (s *Store) dropUnwanted(ctx context.Context) error {
	s.arrivals.mu.Lock()
	here := maps.Clone(s.arrivals.layers)
	s.arrivals.mu.Unlock()
	if len(here) == 0 {
		return nil
	}
	err := s.content.Walk(ctx, func(info content.Info) error {
		for key, value := range info.Labels {
			if strings.HasPrefix(key, gcRefPrefix) {
				delete(here, digest.Digest(value))
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, at := range here {
		at.unwanted.Store(true)
		s.settled(at) // its watch does the rest
	}
	return nil
}
