package disk

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// FAT is a small filesystem that firmwares and every guest read.
type FAT struct {
	Label string // at most 11 bytes
	ID    uint32
	Size  int64             // bytes; a multiple of 1024
	Files map[string][]byte // by path, as in EFI/BOOT/BOOTX64.EFI
	Time  time.Time         // of every file
}

// CreateFAT makes the filesystem in a new file at path, with Debian's dosfstools and
// mtools. The same input gives the same bytes. On an error nothing is left at path.
func CreateFAT(ctx context.Context, file string, f FAT) error {
	for _, program := range []string{"mkfs.vfat", "mcopy"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%s is not installed: install the packages dosfstools and mtools", program)
		}
	}
	tree, err := os.MkdirTemp(filepath.Dir(file), "fat-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tree)
	return newFile(file, func(out *os.File) error {
		if err := out.Truncate(f.Size); err != nil {
			return err
		}
		id := fmt.Sprintf("%08x", f.ID)
		if err := f.run(ctx, "mkfs.vfat", "--invariant", "-n", f.Label, "-i", id, file); err != nil {
			return err
		}
		tops, err := f.write(tree)
		if err != nil || len(tops) == 0 {
			return err
		}
		return f.run(ctx, "mcopy", append(append([]string{"-i", file, "-s", "-m"}, tops...), "::")...)
	})
}

// write writes the files below dir, and returns what stands in it.
func (f *FAT) write(dir string) (tops []string, err error) {
	for _, name := range slices.Sorted(maps.Keys(f.Files)) {
		full := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
			return nil, err
		}
		if err := os.WriteFile(full, f.Files[name], 0o600); err != nil {
			return nil, err
		}
		for at := name; at != "."; at = path.Dir(at) {
			if err := os.Chtimes(filepath.Join(dir, at), f.Time, f.Time); err != nil {
				return nil, err
			}
		}
		if top := filepath.Join(dir, strings.Split(name, "/")[0]); !slices.Contains(tops, top) {
			tops = append(tops, top)
		}
	}
	return tops, nil
}

func (f *FAT) run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC", "SOURCE_DATE_EPOCH="+strconv.FormatInt(f.Time.Unix(), 10), "MTOOLSRC=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = errors.Join(err, errors.New(strings.TrimSpace(string(out))))
		return fmt.Errorf("%s: %s", name, strings.ReplaceAll(err.Error(), "\n", ": "))
	}
	return nil
}
