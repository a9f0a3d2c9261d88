package cgroup

import (
	"fmt"
	"os"
	"strconv"

	devices "github.com/opencontainers/cgroups/devices/config"
	"golang.org/x/sys/unix"
)

// writeDevices writes the rules to the devices controller of v1, one after another:
// "The runtime MUST apply entries in the listed order" (config-linux.md, Allowed
// Device list). The library would compute the difference to what the cgroup has and
// write that sorted; a new cgroup has nothing to keep.
func writeDevices(dir string, rules []*devices.Rule) error {
	allow, err := openControl(dir, "devices.allow")
	if err != nil {
		return err
	}
	defer unix.Close(allow)
	deny, err := openControl(dir, "devices.deny")
	if err != nil {
		return err
	}
	defer unix.Close(deny)
	for _, r := range rules {
		fd := deny
		if r.Allow {
			fd = allow
		}
		if _, err := unix.Write(fd, []byte(ruleText(r))); err != nil {
			return fmt.Errorf("linux.resources.devices: %q: %w", ruleText(r), err)
		}
	}
	return nil
}

// ruleText formats a rule for the kernel: "c 1:3 rwm", "b *:* m".
func ruleText(r *devices.Rule) string {
	number := func(n int64) string {
		if n == devices.Wildcard {
			return "*"
		}
		return strconv.FormatInt(n, 10)
	}
	return string(r.Type) + " " + number(r.Major) + ":" + number(r.Minor) + " " + string(r.Permissions)
}

// openControl opens a control file of a cgroup for writing.
func openControl(dir, name string) (int, error) {
	fd, err := unix.Open(dir+"/"+name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "cgroup", Path: dir + "/" + name, Err: err}
	}
	return fd, nil
}
