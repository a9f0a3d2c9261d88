package builder

import (
	"context"
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

	mu     sync.Mutex
	stacks map[string]stack // by upper directory, while it is in use
}

// stack is what an overlay is made of.
type stack struct {
	lower       []string // topmost first
	upper, work string   // "" of a read-only one
}

func newSnapshotter(s snapshot.Snapshotter) *snapshotter {
	return &snapshotter{Snapshotter: s, stacks: map[string]stack{}}
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
	if err != nil || len(mounts) != 1 || mounts[0].Type != "overlay" {
		return mounts, release, err
	}
	st := parseStack(mounts[0].Options)
	if st.upper == "" {
		return mounts, release, nil
	}
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.s.stacks[st.upper] = st
	return mounts, func() error {
		r.s.mu.Lock()
		delete(r.s.stacks, st.upper)
		r.s.mu.Unlock()
		if release == nil {
			return nil
		}
		return release()
	}, nil
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
		}
	}
	return st
}
