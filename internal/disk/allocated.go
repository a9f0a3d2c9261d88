package disk

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"syscall"
)

// Allocated returns what the files at and below a path take of the disk, in bytes; a file
// with several names there is counted once. What is missing takes nothing.
func Allocated(ctx context.Context, path string) (sum int64, err error) {
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	err = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone meanwhile
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		if st.Nlink > 1 && !d.IsDir() {
			id := inode{st.Dev, st.Ino}
			if seen[id] {
				return nil
			}
			seen[id] = true
		}
		sum += st.Blocks * 512
		return nil
	})
	return sum, err
}
