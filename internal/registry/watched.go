package registry

import (
	"fmt"
	"log/slog"
	"os"
	"sync"
)

// watched is what stands in files, as they are now. Where they cannot be read any more
// it stays as it was.
type watched[T any] struct {
	load  func(paths []string) (T, error)
	paths []string
	log   *slog.Logger

	mu    sync.Mutex
	stamp string
	value T
}

// watch reads files; an empty path is of no file, and its value the zero value.
func watch[T any](log *slog.Logger, load func([]string) (T, error), paths ...string) (w *watched[T], err error) {
	w = &watched[T]{load: load, paths: paths, log: log}
	if paths[0] == "" {
		w.paths = nil
		return w, nil
	}
	w.stamp = w.now()
	w.value, err = load(paths)
	return w, err
}

// now tells one state of the files from another.
func (w *watched[T]) now() (stamp string) {
	for _, path := range w.paths {
		if st, err := os.Stat(path); err == nil {
			stamp += fmt.Sprintln(st.ModTime().UnixNano(), st.Size())
		}
	}
	return stamp
}

func (w *watched[T]) get() T {
	w.mu.Lock()
	defer w.mu.Unlock()
	if stamp := w.now(); stamp != w.stamp {
		w.stamp = stamp
		value, err := w.load(w.paths)
		if err != nil {
			w.log.Error("the registry goes on with what it has read before", "error", err)
			return w.value
		}
		w.value = value
	}
	return w.value
}
