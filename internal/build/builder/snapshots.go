package builder

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/moby/buildkit/snapshot"
)

// snapshotter remembers of what the overlays are made that are handed out: BuildKit
// mounts one before a step gets it, and the step wants the layers, each with its ids
// mapped, which a mounted overlay cannot have.
type snapshotter struct {
	snapshot.Snapshotter
	layers *layers

	mu     sync.Mutex
	stacks map[string]stack // by upper directory, while it is in use
}

// stack is what an overlay is made of.
type stack struct {
	lower       []string // topmost first
	upper, work string   // "" of a read-only one
	more        []string // other options, as "userxattr" without root
}

func newSnapshotter(s snapshot.Snapshotter, l *layers) *snapshotter {
	return &snapshotter{Snapshotter: s, layers: l, stacks: map[string]stack{}}
}

// Mounts implements snapshot.Snapshotter.
func (s *snapshotter) Mounts(ctx context.Context, key string) (snapshot.Mountable, error) {
	m, err := s.Snapshotter.Mounts(ctx, key)
	if err != nil {
		return nil, err
	}
	return &remembered{m, s}, nil
}

// View implements snapshot.Snapshotter.
func (s *snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) (snapshot.Mountable, error) {
	m, err := s.Snapshotter.View(ctx, key, parent, opts...)
	if err != nil {
		return nil, err
	}
	return &remembered{m, s}, nil
}

// of returns what an overlay with an upper directory is made of.
func (s *snapshotter) of(upper string) (stack, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, ok := s.stacks[upper]
	return st, ok
}

// remembered is what can be mounted, and is remembered while it is.
type remembered struct {
	snapshot.Mountable
	s *snapshotter
}

// Mount implements snapshot.Mountable.
func (r *remembered) Mount() ([]mount.Mount, func() error, error) {
	mounts, release, err := r.Mountable.Mount()
	if err != nil || len(mounts) != 1 {
		return mounts, release, err
	}
	m, forget, err := r.s.layered(mounts[0])
	if err != nil {
		return nil, nil, errors.Join(err, callRelease(release))
	}
	return []mount.Mount{m}, func() error {
		forget()
		return callRelease(release)
	}, nil
}

// layered returns a mount with EROFS images in their places, and remembers one that is
// written to until forget is called.
func (s *snapshotter) layered(m mount.Mount) (_ mount.Mount, forget func(), err error) {
	ctx := context.Background() // BuildKit mounts without one
	if m.Type != "overlay" {
		dirs, release, err := s.layers.place(ctx, []string{m.Source})
		if err != nil {
			return m, nil, err
		}
		m.Source = dirs[0]
		return m, release, nil
	}
	st := parseStack(m.Options)
	dirs, release, err := s.layers.place(ctx, st.lower)
	if err != nil {
		return m, nil, err
	}
	st.lower = dirs
	m.Options = slices.Clone(m.Options)
	for i, o := range m.Options {
		if strings.HasPrefix(o, "lowerdir=") {
			m.Options[i] = "lowerdir=" + strings.Join(st.lower, ":")
		}
	}
	if st.upper == "" {
		if len(st.lower) == 1 { // of a layer that was there twice
			m = mount.Mount{Type: "bind", Source: st.lower[0], Options: []string{"ro", "rbind"}}
		}
		return m, release, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, used := s.stacks[st.upper]; !used {
		if err := st.renew(); err != nil {
			release()
			return m, nil, err
		}
	}
	m.Options = append(m.Options, volatile)
	st.more = append(st.more, volatile)
	s.stacks[st.upper] = st
	return m, func() {
		s.mu.Lock()
		delete(s.stacks, st.upper)
		s.mu.Unlock()
		release()
	}, nil
}

// volatile has an overlay's end not wait until all that was written is on the disk, which
// is for the builder's end (unclean.go). Its work directory serves for one mount only.
const volatile = "volatile"

// renew makes the work directory ready for a mount.
func (st *stack) renew() error {
	if err := os.RemoveAll(st.work); err != nil {
		return err
	}
	return os.Mkdir(st.work, 0o711)
}

// parseStack reads the options of an overlay that the snapshotter has made, whose paths
// have neither colons nor commas in them.
func parseStack(options []string) (st stack) {
	for _, o := range options {
		key, value, _ := strings.Cut(o, "=")
		switch key {
		case "lowerdir":
			st.lower = strings.Split(value, ":")
		case "upperdir":
			st.upper = value
		case "workdir":
			st.work = value
		default:
			st.more = append(st.more, o)
		}
	}
	return st
}
