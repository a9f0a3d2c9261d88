// Command probe tells from inside a container what it can reach there: its
// rights, the devices it can open, the system calls that answer, the files of
// /proc and /sys that it can read and write. It opens files and reads none; it
// makes system calls with arguments that make no sense.
package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// reach is what the probe prints.
type reach struct {
	Status   map[string]string // of /proc/self/status
	UserNS   bool              // its ids are not the host's
	Devices  []string          // that can be opened
	Syscalls []string          // that answer other than EPERM and ENOSYS
	Readable []string          // files of /proc and /sys
	Writable []string
}

func main() {
	if len(os.Args) > 1 {
		os.Exit(call(os.Args[1:]))
	}
	r := reach{Status: status(), Devices: devices(), Syscalls: syscalls()}
	ids, _ := os.ReadFile("/proc/self/uid_map") // one that cannot be read is not the host's
	r.UserNS = strings.Join(strings.Fields(string(ids)), " ") != "0 0 4294967295"
	for _, root := range []string{"/proc", "/sys"} {
		r.files(root)
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		os.Exit(1)
	}
}

func status() map[string]string {
	text, _ := os.ReadFile("/proc/self/status")
	all := map[string]string{}
	for line := range strings.SplitSeq(string(text), "\n") {
		name, value, _ := strings.Cut(line, ":")
		if strings.HasPrefix(name, "Cap") || name == "NoNewPrivs" || name == "Seccomp" {
			all[name] = strings.TrimSpace(value)
		}
	}
	return all
}

// devices opens every node of /dev, and nodes of its own making.
func devices() (open []string) {
	_ = filepath.WalkDir("/dev", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		// The directory tells what is below a mount, not what is mounted.
		info, err := d.Info()
		if err == nil && info.Mode()&fs.ModeDevice != 0 && canOpen(path, unix.O_RDONLY) {
			open = append(open, path)
		}
		return nil
	})
	for _, dev := range []struct {
		name         string
		kind         uint32
		major, minor uint32
	}{
		{"mem", unix.S_IFCHR, 1, 1}, {"port", unix.S_IFCHR, 1, 4}, {"kmsg", unix.S_IFCHR, 1, 11}, {"console", unix.S_IFCHR, 5, 1},
		{"fuse", unix.S_IFCHR, 10, 229}, {"tun", unix.S_IFCHR, 10, 200}, {"kvm", unix.S_IFCHR, 10, 232},
		{"loop-control", unix.S_IFCHR, 10, 237}, {"loop0", unix.S_IFBLK, 7, 0}, {"sda", unix.S_IFBLK, 8, 0}, {"vda", unix.S_IFBLK, 254, 0},
	} {
		path := "/tmp/probe-" + dev.name
		if unix.Mknod(path, dev.kind|0o600, int(unix.Mkdev(dev.major, dev.minor))) != nil {
			continue
		}
		if canOpen(path, unix.O_RDONLY) {
			open = append(open, "own node of "+dev.name)
		}
		_ = os.Remove(path)
	}
	slices.Sort(open)
	return open
}

func canOpen(path string, flags int) bool {
	fd, err := unix.Open(path, flags|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}

// files looks at every regular file below root. What belongs to other processes
// than this one differs from run to run.
func (r *reach) files(root string) {
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if d.IsDir() && (foreign(path) || slices.Contains([]string{"task", "fd", "fdinfo", "map_files"}, d.Name()) && strings.HasPrefix(path, "/proc/")) {
			return fs.SkipDir
		}
		if !d.Type().IsRegular() {
			return nil
		}
		name := strings.Replace(path, fmt.Sprintf("/proc/%d/", os.Getpid()), "/proc/self/", 1)
		if canOpen(path, unix.O_RDONLY) {
			r.Readable = append(r.Readable, name)
		}
		if canOpen(path, unix.O_WRONLY) {
			r.Writable = append(r.Writable, name)
		}
		return nil
	})
}

// foreign reports whether path is another process's directory.
func foreign(path string) bool {
	name, ok := strings.CutPrefix(path, "/proc/")
	return ok && strings.Trim(name, "0123456789") == "" && name != fmt.Sprint(os.Getpid())
}
