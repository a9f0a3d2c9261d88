package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/bundle"
	"github.com/berthcloud/berth/internal/oci/criu"
	"github.com/berthcloud/berth/internal/oci/landlock"
	"github.com/berthcloud/berth/internal/oci/mount"
)

// CheckpointOptions says how a container is written to files. CRIU's own options
// are handed on; what they say of the container is filled in.
type CheckpointOptions struct {
	ID      string
	PreDump bool // only what has changed in memory since CRIU.Parent; the container runs on
	CRIU    criu.Options
}

// streamsFile keeps, beside CRIU's files, what the standard streams were, as runc
// does under the same name.
const streamsFile = "descriptors.json"

// Checkpoint writes the processes of a running container to files in
// CRIU.ImagesDir. The container then is stopped, unless CRIU.LeaveRunning or
// PreDump are set. When it fails the container runs on.
func (r *Runtime) Checkpoint(o CheckpointOptions) error {
	d, err := r.lockDir(o.ID)
	if err != nil {
		return err
	}
	defer d.unlock()
	c, err := r.Load(o.ID)
	if err == nil {
		err = c.checkpoint(&o)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", o.ID, err)
	}
	return nil
}

func (c *Container) checkpoint(o *CheckpointOptions) error {
	if os.Geteuid() != 0 {
		return errors.New("CRIU needs root, and so does a checkpoint")
	}
	status, err := c.Status()
	if err != nil {
		return err
	}
	if status != specs.StateRunning && status != StatusPaused {
		return fmt.Errorf("%w but %s", ErrNotRunning, status)
	}
	s, err := c.spec()
	if err != nil {
		return err
	}
	if _, ok := s.Annotations[landlock.Annotation]; ok {
		return fmt.Errorf("annotations[%q]: CRIU does not restore a Landlock domain, and what it restored would be free of it; leave the annotation out to checkpoint the container", landlock.Annotation)
	}
	if err := makeDirs(&o.CRIU); err != nil {
		return err
	}
	o.CRIU.Pid, o.CRIU.Root = c.rec.Pid, c.rec.Rootfs
	if g, err := c.cgroups(); err == nil && g != nil {
		o.CRIU.FreezeCgroup = g.FreezerPath()
	}
	if o.PreDump {
		_, err = criu.Do(criu.PreDump, &o.CRIU, criu.Hooks{})
		return err
	}
	if err := c.external(s, &o.CRIU); err != nil {
		return err
	}
	_, err = criu.Do(criu.Dump, &o.CRIU, criu.Hooks{})
	return err
}

// makeDirs makes the directories of CRIU's files; memory may hold secrets.
func makeDirs(o *criu.Options) error {
	for option, dir := range map[string]*string{"--image-path": &o.ImagesDir, "--work-path": &o.WorkDir} {
		if *dir == "" {
			continue
		}
		path, err := filepath.Abs(*dir)
		if err == nil {
			err = os.MkdirAll(path, 0o700)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", option, err)
		}
		*dir = path
	}
	return nil
}

// external tells CRIU what of the container comes from outside of it: mounts of
// the host, namespaces by path, the other ends of its standard streams.
func (c *Container) external(s *specs.Spec, o *criu.Options) error {
	root, err := c.OpenRoot()
	if err != nil {
		return err
	}
	defer unix.Close(root)
	for _, path := range externalMounts(s) {
		o.External = append(o.External, "mnt["+resolved(root, path)+"]:"+path)
	}
	namespaces, err := namespaceFiles(s)
	if err != nil {
		return err
	}
	for name, path := range namespaces {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return fmt.Errorf("linux.namespaces: %s: %w", path, err)
		}
		o.External = append(o.External, fmt.Sprintf("%s[%d]:%s", name[:3], st.Ino, name))
	}
	streams, external, err := c.streams()
	if err != nil {
		return err
	}
	o.External = append(o.External, external...)
	b, err := json.Marshal(streams)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(o.ImagesDir, streamsFile), b, 0o600)
}

// externalMounts lists where the container has mounts of the host's.
func externalMounts(s *specs.Spec) []string {
	var list []string
	for i, m := range s.Mounts {
		o, err := mount.ParseOptions(m.Options)
		if err != nil || i == 0 && bundle.RootOverlay(s) {
			continue
		}
		// With a namespace of cgroups CRIU mounts them itself.
		cgroups := strings.HasPrefix(m.Type, "cgroup") && bundle.Namespace(s, specs.CgroupNamespace) == nil
		if o.Bind || m.Type == "bind" || cgroups {
			list = append(list, filepath.Clean("/"+m.Destination))
		}
	}
	list = append(list, s.Linux.MaskedPaths...)
	if hasUserNamespace(s) { // its device nodes are the host's, too
		for _, d := range s.Linux.Devices {
			list = append(list, filepath.Clean(d.Path))
		}
		for _, d := range defaultDevices() {
			list = append(list, d.Path)
		}
	}
	return list
}

// resolved follows symbolic links of the container: /proc/PID/mountinfo, which CRIU
// goes by, knows none.
func resolved(root int, path string) string {
	fd, err := mount.Root{FD: root}.Open(path, unix.O_PATH, 0)
	if err != nil {
		return path
	}
	defer unix.Close(fd)
	if real, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd)); err == nil {
		return real
	}
	return path
}

// namespaceFiles returns the files of namespaces that are not the container's own,
// by a name under which CRIU finds them again: its word for the type, and ours.
func namespaceFiles(s *specs.Spec) (map[string]string, error) {
	files := map[string]string{}
	for i, ns := range s.Linux.Namespaces {
		switch {
		case ns.Path == "":
		case ns.Type == specs.NetworkNamespace:
			files["net-of-bundle"] = ns.Path
		case ns.Type == specs.PIDNamespace:
			files["pid-of-bundle"] = ns.Path
		default:
			return nil, fmt.Errorf("linux.namespaces[%d].path: CRIU cannot leave out a namespace of type %s", i, ns.Type)
		}
	}
	return files, nil
}

// streams returns what the standard streams of the first process are, in the words
// that CRIU finds them by at a restore, and those of them that it has to be told are
// external: files and terminals outside of the container's mounts.
func (c *Container) streams() (list, external []string, err error) {
	proc := "/proc/" + strconv.Itoa(c.rec.Pid)
	mounts, err := os.ReadFile(proc + "/mountinfo")
	if err != nil {
		return nil, nil, ErrNotRunning
	}
	for fd := range 3 {
		name := strconv.Itoa(fd)
		target, err := os.Readlink(proc + "/fd/" + name)
		if err != nil {
			list = append(list, "") // closed
			continue
		}
		if !strings.HasPrefix(target, "/") { // pipe:[INODE], socket:[INODE]
			list = append(list, target)
			continue
		}
		key, err := externalFile(proc, name, string(mounts))
		if err != nil {
			return nil, nil, err
		}
		if key == "" {
			list = append(list, target)
			continue
		}
		list = append(list, key)
		external = append(external, key)
	}
	return list, external, nil
}

// externalFile returns the key of a file on no mount of the container's, or "".
func externalFile(proc, fd, mounts string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(proc+"/fd/"+fd, &st); err != nil {
		return "", err
	}
	info, err := os.ReadFile(proc + "/fdinfo/" + fd)
	if err != nil {
		return "", err
	}
	id := 0
	for line := range strings.SplitSeq(string(info), "\n") {
		if v, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			if id, err = strconv.Atoi(strings.TrimSpace(v)); err != nil {
				return "", err
			}
		}
	}
	for line := range strings.Lines(mounts) {
		if strings.HasPrefix(line, strconv.Itoa(id)+" ") {
			return "", nil
		}
	}
	const unix98 = 136 // first of the eight majors of pseudoterminals (Documentation/admin-guide/devices.txt)
	if major := unix.Major(st.Rdev); st.Mode&unix.S_IFMT == unix.S_IFCHR && (major == 4 || major == 5 || major >= unix98 && major < unix98+8) {
		return fmt.Sprintf("tty[%x:%x]", st.Rdev, st.Dev), nil
	}
	return fmt.Sprintf("file[%x:%x]", id, st.Ino), nil
}
