package image

import (
	"context"
	"slices"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/gc"
)

// Hold keeps the content of the image with a manifest's digest alive, whatever
// happens to its name, until Release is called with the same holder: an instance's
// ID. A holder has one image; holding another replaces it. Holds end with the
// process: whoever opens the store says anew what is held, before anything else.
func (s *Store) Hold(holder, manifest string) {
	s.placing.RLock() // not in the middle of a collection
	defer s.placing.RUnlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holds[holder] = manifest
}

// Release ends a Hold, if there is one.
func (s *Store) Release(holder string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.holds, holder)
}

// holders returns who holds each manifest, by its digest.
func (s *Store) holders() map[string][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	by := make(map[string][]string)
	for holder, manifest := range s.holds {
		by[manifest] = append(by[manifest], holder)
	}
	for _, list := range by {
		slices.Sort(list)
	}
	return by
}

// holdResource is the collector's number for holds: one that containerd uses for no
// resource of its own.
const holdResource = gc.ResourceMax - 1

// collector tells the garbage collector of what is held.
type collector struct{ s *Store }

// StartCollection implements metadata.Collector.
func (c collector) StartCollection(context.Context) (metadata.CollectionContext, error) {
	var held collection
	for manifest := range c.s.holders() {
		held = append(held, manifest)
	}
	return held, nil
}

// ReferenceLabel implements metadata.Collector: nothing refers to a hold.
func (collector) ReferenceLabel() string { return "" }

// collection is the manifests that are held while garbage is collected. They are
// roots and no resources, so there is nothing to remove.
type collection []string

func (held collection) Active(ns string, root func(gc.Node)) {
	for _, manifest := range held {
		root(gc.Node{Type: metadata.ResourceContent, Namespace: ns, Key: manifest})
	}
}

func (collection) All(func(gc.Node))                    {}
func (collection) Leased(string, string, func(gc.Node)) {}
func (collection) Remove(gc.Node)                       {}
func (collection) Cancel() error                        { return nil }
func (collection) Finish() error                        { return nil }
