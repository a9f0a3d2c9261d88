package guest

import (
	"bufio"
	"errors"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/agent"
)

// Requests of ioctl(2) that hold back a filesystem's writers, and let them go on:
// linux/fs.h.
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

// freeze holds back what writes to the machine's disks until the host lets go, or is
// gone.
func freeze(c *agent.Call) error {
	points, err := onDisks("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var frozen []*os.File
	defer func() {
		for _, dir := range slices.Backward(frozen) {
			_ = unix.IoctlSetInt(int(dir.Fd()), fiThaw, 0)
			dir.Close()
		}
	}()
	// What is mounted on another comes before it.
	for _, point := range slices.Backward(points) {
		dir, err := os.Open(point)
		if err != nil {
			return err
		}
		switch err := unix.IoctlSetInt(int(dir.Fd()), fiFreeze, 0); {
		case err == nil:
			frozen = append(frozen, dir)
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EBUSY): // it cannot; it is already
			dir.Close()
		default:
			dir.Close()
			return &os.PathError{Op: "freeze", Path: point, Err: err}
		}
	}
	if _, err := c.Output(agent.ChannelStdout).Write([]byte{0}); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, c.Stdin())
	return nil
}

// onDisks returns where the filesystems of block devices are mounted that can be
// written to, each once, in the order of their mounting: proc_pid_mountinfo(5).
func onDisks(mountinfo string) (points []string, err error) {
	f, err := os.Open(mountinfo)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	seen := map[string]bool{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		mount, fs, _ := strings.Cut(lines.Text(), " - ")
		m, s := strings.Fields(mount), strings.Fields(fs)
		if len(m) < 6 || len(s) < 3 || !strings.HasPrefix(s[1], "/dev/") || seen[m[2]] {
			continue
		}
		if slices.Contains(strings.Split(s[2], ","), "ro") {
			continue
		}
		seen[m[2]] = true
		points = append(points, unescape.Replace(m[4]))
	}
	return points, lines.Err()
}

// unescape reads the characters that mountinfo writes in octal.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
