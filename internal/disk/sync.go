package disk

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
)

// Sync waits until a file or directory would survive a crash of the host.
func Sync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// SyncTree waits until a directory of files would survive a crash of the host. All are
// waited for at once: a filesystem's journal then takes them in one or two commits, where
// each alone would take one of its own.
func SyncTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	errs := make([]error, len(entries)+1)
	var all sync.WaitGroup
	for i, entry := range entries {
		all.Go(func() { errs[i] = Sync(filepath.Join(dir, entry.Name())) })
	}
	all.Go(func() { errs[len(entries)] = Sync(dir) })
	all.Wait()
	return errors.Join(errs...)
}
