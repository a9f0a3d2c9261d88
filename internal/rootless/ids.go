package rootless

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/user"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Range is a range of ids.
type Range struct{ First, Size uint32 }

// subordinate returns the ranges that a file like /etc/subuid gives a user, who may
// stand there by name or by number (subuid(5)).
func subordinate(r io.Reader, name, id string) ([]Range, error) {
	var list []Range
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		fields := strings.Split(strings.TrimSpace(lines.Text()), ":")
		if len(fields) != 3 || fields[0] != name && fields[0] != id {
			continue
		}
		first, ferr := strconv.ParseUint(fields[1], 10, 32)
		size, serr := strconv.ParseUint(fields[2], 10, 32)
		if err := errors.Join(ferr, serr); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if first == 0 || first+size > math.MaxUint32 {
			return nil, fmt.Errorf("line %d: a range from %d of %d ids", n, first, size)
		}
		if size > 0 {
			list = append(list, Range{uint32(first), uint32(size)})
		}
	}
	return list, lines.Err()
}

// inside maps the own id to 0 and the subordinate ones to what follows, as many as a
// namespace's ids go.
func inside(own int, ranges []Range) []specs.LinuxIDMapping {
	maps := []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(own), Size: 1}}
	next := uint32(1)
	for _, r := range ranges {
		size := min(r.Size, math.MaxInt32-next)
		if size == 0 {
			break
		}
		maps = append(maps, specs.LinuxIDMapping{ContainerID: next, HostID: r.First, Size: size})
		next += size
	}
	return maps
}

// count returns how many ids the maps give, counted from 0.
func count(maps []specs.LinuxIDMapping) (n uint32) {
	for _, m := range maps {
		n += m.Size
	}
	return n
}

// leastIDs is what images expect: Debian alone has nobody at 65534.
const leastIDs = 65536

// identity returns the user's maps.
func identity() (uids, gids []specs.LinuxIDMapping, err error) {
	u, err := user.Current()
	if err != nil {
		return nil, nil, err
	}
	for _, f := range []struct {
		path string
		own  int
		maps *[]specs.LinuxIDMapping
	}{{"/etc/subuid", os.Geteuid(), &uids}, {"/etc/subgid", os.Getegid(), &gids}} {
		ranges, err := readSubordinate(f.path, u)
		if err != nil {
			return nil, nil, err
		}
		*f.maps = inside(f.own, ranges)
		if n := count(*f.maps); n < leastIDs {
			return nil, nil, fmt.Errorf("%s gives %s %d ids, and images need %d; 'usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s' as root gives them", f.path, u.Username, n-1, leastIDs-1, u.Username)
		}
	}
	return uids, gids, nil
}

func readSubordinate(path string, u *user.User) ([]Range, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	ranges, err := subordinate(f, u.Username, u.Uid)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return ranges, nil
}

// IDs returns the ranges of ids, from 0 and without a gap, that this process's user
// namespace has.
func IDs() (uids, gids []Range, err error) {
	for _, f := range []struct {
		path string
		list *[]Range
	}{{"/proc/self/uid_map", &uids}, {"/proc/self/gid_map", &gids}} {
		file, err := os.Open(f.path)
		if err != nil {
			return nil, nil, err
		}
		*f.list, err = contiguous(file)
		file.Close()
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", f.path, err)
		}
	}
	return uids, gids, nil
}

// contiguous returns the ranges of an id map of /proc, up to the first gap.
func contiguous(r io.Reader) ([]Range, error) {
	var list []Range
	var next uint32
	for {
		var first, host, size uint32
		_, err := fmt.Fscan(r, &first, &host, &size)
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		if first == next {
			list = append(list, Range{first, size})
			next += size
		}
	}
}
