// Package rdt places a container in the class of service and the monitoring group of
// resctrl that linux.intelRdt asks for (config-linux.md, IntelRdt; the kernel's
// Documentation/filesystems/resctrl.rst).
package rdt

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Group is a container's place in resctrl.
type Group struct {
	Tasks  []string `json:"tasks"`            // files that take the pid of each of its processes
	Remove []string `json:"remove,omitempty"` // directories that go with the container, inner ones first

	dir     string
	made    []string // directories made now, inner ones last
	wanted  *specs.LinuxIntelRdt
	ownName bool // the directory is named after the container
}

// Mounted returns where resctrl is mounted.
func Mounted() (string, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	if dir := mountPoint(text); dir != "" {
		return dir, nil
	}
	return "", errors.New(`no resctrl filesystem is mounted; mount -t resctrl resctrl /sys/fs/resctrl does it where the processor can (config-linux.md: "If no mounted resctrl pseudo-filesystem is available, the runtime MUST generate an error")`)
}

// mountPoint finds resctrl in the text of /proc/self/mountinfo (proc_pid_mountinfo(5)).
func mountPoint(text []byte) string {
	for line := range bytes.Lines(text) {
		front, back, ok := strings.Cut(string(line), " - ")
		if fields := strings.Fields(front); ok && len(fields) > 4 && strings.HasPrefix(back, "resctrl ") {
			return fields[4]
		}
	}
	return ""
}

// Plan says where a container belongs, without touching anything. root is the mount
// point of resctrl.
func Plan(root, id string, r *specs.LinuxIntelRdt) *Group {
	g := &Group{wanted: r, dir: root}
	switch r.ClosID {
	case "/": // the default class
	case "":
		g.ownName, g.dir = true, filepath.Join(root, id)
		g.Remove = []string{g.dir}
	default:
		g.dir = filepath.Join(root, r.ClosID)
	}
	g.Tasks = []string{filepath.Join(g.dir, "tasks")}
	if r.EnableMonitoring {
		mon := filepath.Join(g.dir, "mon_groups", id)
		g.Tasks = append(g.Tasks, filepath.Join(mon, "tasks"))
		g.Remove = append([]string{mon}, g.Remove...)
	}
	return g
}

// Apply makes the directories of a planned group and writes its schemata. When it fails
// it takes back what it made.
func (g *Group) Apply() (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, g.Undo())
		}
	}()
	if err := g.class(); err != nil {
		return err
	}
	if r := g.wanted; r.L3CacheSchema != "" || r.MemBwSchema != "" {
		if err := g.Write(r.L3CacheSchema, r.MemBwSchema); err != nil {
			return err
		}
	}
	// "the value of schemata field must be written last"
	if len(g.wanted.Schemata) > 0 {
		if err := g.Write(g.wanted.Schemata...); err != nil {
			return err
		}
	}
	if g.wanted.EnableMonitoring {
		return g.mkdir(g.Remove[0])
	}
	return nil
}

// class finds or makes the directory of the class of service.
func (g *Group) class() error {
	r := g.wanted
	_, err := os.Stat(g.dir)
	exists := err == nil
	schema := r.L3CacheSchema != "" || r.MemBwSchema != "" || len(r.Schemata) > 0
	switch {
	case g.ownName:
		return g.mkdir(g.dir)
	case exists:
		return g.compare(r.L3CacheSchema, r.MemBwSchema)
	case schema:
		return g.mkdir(g.dir)
	}
	return fmt.Errorf("closID: %q does not exist, and no schema is given to make it of", r.ClosID)
}

func (g *Group) mkdir(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	g.made = append(g.made, dir)
	return nil
}

// Write writes lines to the schemata file in one call: the kernel takes all or none.
// Empty lines do not count.
func (g *Group) Write(lines ...string) error {
	given := slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return l == "" })
	text := strings.Join(given, "\n") + "\n"
	if err := writeTo(filepath.Join(filepath.Dir(g.Tasks[0]), "schemata"), text); err != nil {
		return fmt.Errorf("%q: %w", strings.TrimSpace(text), err)
	}
	return nil
}

// compare fails where an existing class has another schema than the one asked for:
// other containers may be in it.
func (g *Group) compare(lines ...string) error {
	text, err := os.ReadFile(filepath.Join(g.dir, "schemata"))
	if err != nil {
		return err
	}
	has := map[string]map[string]string{}
	scan := bufio.NewScanner(bytes.NewReader(text))
	for scan.Scan() {
		resource, domains := schema(scan.Text())
		has[resource] = domains
	}
	for _, l := range lines {
		if l == "" {
			continue
		}
		resource, domains := schema(l)
		for domain, value := range domains {
			if has[resource][domain] != value {
				return fmt.Errorf("closID: %q exists with another schema than %q", g.wanted.ClosID, l)
			}
		}
	}
	return nil
}

// schema splits "L3:0=7f0;1=1f" into the resource and its domains' values.
func schema(line string) (resource string, domains map[string]string) {
	resource, list, _ := strings.Cut(strings.TrimSpace(line), ":")
	domains = map[string]string{}
	for d := range strings.SplitSeq(list, ";") {
		id, value, _ := strings.Cut(strings.TrimSpace(d), "=")
		domains[strings.TrimSpace(id)] = strings.ToLower(strings.TrimLeft(strings.TrimSpace(value), "0"))
	}
	return resource, domains
}

// Join puts a process into the group.
func (g *Group) Join(pid int) error {
	for _, tasks := range g.Tasks {
		if err := writeTo(tasks, strconv.Itoa(pid)); err != nil {
			return err
		}
	}
	return nil
}

// Undo removes what Apply made.
func (g *Group) Undo() error {
	var errs error
	for len(g.made) > 0 {
		last := len(g.made) - 1
		errs = errors.Join(errs, os.Remove(g.made[last]))
		g.made = g.made[:last]
	}
	return errs
}

// Delete removes what goes with the container.
func (g *Group) Delete() error {
	for _, dir := range g.Remove {
		if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// writeTo writes to an existing file in one call.
func writeTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
