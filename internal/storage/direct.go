package storage

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/image/erofs"
)

// readsDirectly reports whether the blocks of an image can be read past the page
// cache. Not every filesystem can (tmpfs, btrfs do not promise it), and a disk with
// larger sectors would refuse a single block.
func readsDirectly(image string) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, image, 0, unix.STATX_DIOALIGN, &st)
	return err == nil && st.Mask&unix.STATX_DIOALIGN != 0 && st.Dio_offset_align > 0 && erofs.BlockSize%st.Dio_offset_align == 0
}

// bdiDir has a directory for each backing device: a disk's is named by its number, a
// filesystem's without a disk by its type and when it was mounted.
const bdiDir = "/sys/class/bdi"

// erofsBDIs returns the backing devices of all EROFS images that are mounted without
// a disk, nil where they cannot be known.
func erofsBDIs() map[string]bool {
	dir, err := os.Open(bdiDir)
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil
	}
	found := make(map[string]bool)
	for _, name := range names {
		if strings.HasPrefix(name, "erofs-") {
			found[name] = true
		}
	}
	return found
}

// maxReadAhead bounds how far an image is read ahead, in KiB. With more a fast disk is
// no faster, and pages that wait for the disk cannot be given back: they fill a small
// memory limit, and the workload is killed. "true" runs in 1 MiB with a cold cache
// and this depth, and not every time with 8 MiB of it.
const maxReadAhead = 1024

// readFarAhead lets the kernel read as far ahead in the image that was just mounted
// as readAhead says: it takes 128 KiB instead, too little for a fast disk (0.71 to
// 0.81 of a plain file's speed where files are read 8 MiB ahead). The kernel does
// not say which backing device a mount got, so it is the one that was not there
// before. If somebody else has mounted an image meanwhile, both stay as they are.
func readFarAhead(image string, before map[string]bool) {
	depth := readAhead(image)
	if before == nil || depth == 0 {
		return
	}
	var fresh []string
	for name := range erofsBDIs() {
		if !before[name] {
			fresh = append(fresh, name)
		}
	}
	if len(fresh) == 1 {
		// It is but slower if /sys is read-only.
		_ = os.WriteFile(bdiDir+"/"+fresh[0]+"/read_ahead_kb", strconv.AppendInt(nil, int64(depth), 10), 0)
	}
}

// readAhead returns how far an image is to be read ahead, in KiB: as far as any file
// of its disk, within bounds. It is 0 where the disk is not known: a filesystem on
// several of them has a number of its own.
func readAhead(path string) int {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0
	}
	text, err := os.ReadFile(fmt.Sprintf("%s/%d:%d/read_ahead_kb", bdiDir, unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil {
		return 0
	}
	depth, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return min(depth, maxReadAhead)
}
