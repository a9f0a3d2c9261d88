package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/bundle"
	"github.com/berthcloud/berth/internal/oci/cgroup"
	"github.com/berthcloud/berth/internal/oci/fastjson"
	"github.com/berthcloud/berth/internal/oci/rdt"
	"github.com/berthcloud/berth/internal/oci/wire"
)

const (
	stateFile  = "state.json"
	configFile = "config.json"
	startFile  = "start.sock"
)

// Status is the state of a container in the words of the specification, plus
// "paused".
type Status = specs.ContainerState

// StatusPaused is what runc calls a frozen container.
const StatusPaused Status = "paused"

// State is what the command "state" prints: the specification's state with the
// additions of runc that engines read.
type State struct {
	specs.State
	Rootfs  string    `json:"rootfs"`
	Created time.Time `json:"created"`
	Owner   string    `json:"owner"`
}

//go:generate ../../scripts/easyjson $GOFILE

// record is state.json.
//
//easyjson:json
type record struct {
	Version     string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Pid         int               `json:"pid"`       // 0 while being created
	StartTime   uint64            `json:"startTime"` // of the pid, in clock ticks since boot: tells a reused pid
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Cgroups     map[string]string `json:"cgroups,omitempty"`
	LateHooks   bool              `json:"lateHooks"`       // has poststart or poststop hooks: else config.json need not be read for them
	OwnPids     bool              `json:"ownPids"`         // has its own pid namespace: the first process takes all with it
	Scope       string            `json:"scope,omitempty"` // of systemd's, see cgroup.NewScope
	Resctrl     *rdt.Group        `json:"resctrl,omitempty"`
}

// writeRecord writes state.json in one step.
func (d *dir) writeRecord(rec *record) error {
	b, err := fastjson.Marshal(rec)
	if err != nil {
		return err
	}
	tmp := d.file(stateFile + ".tmp")
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, d.file(stateFile))
}

// Container is a container as it was when Load looked.
type Container struct {
	rt    *Runtime
	path  string
	rec   record
	group *cgroup.Group // nil without cgroups
	conn  wire.Conn     // of an attended container that has been created: see Begin
}

// Load finds a container.
func (r *Runtime) Load(id string) (*Container, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	path := filepath.Join(r.Root, id)
	c := &Container{rt: r, path: path}
	b, err := os.ReadFile(filepath.Join(path, stateFile))
	if err == nil {
		err = fastjson.Unmarshal(b, &c.rec)
	}
	if errors.Is(err, os.ErrNotExist) {
		if _, serr := os.Stat(path); serr != nil {
			return nil, fmt.Errorf("%s: %w", id, ErrNotExist)
		}
		// Reserved, and nothing made yet: being created, or its creator was killed.
		c.rec = record{Version: specs.Version, ID: id}
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: state: %w", id, err)
	}
	return c, nil
}

// cgroups returns the container's cgroups, or nil where it has none.
func (c *Container) cgroups() (*cgroup.Group, error) {
	if c.group == nil && len(c.rec.Cgroups) > 0 {
		g, err := cgroup.Open(c.rec.Cgroups, c.rec.Scope)
		if err != nil {
			return nil, err
		}
		c.group = g
	}
	return c.group, nil
}

// ID returns the container's id.
func (c *Container) ID() string { return c.rec.ID }

// Pid returns the pid of the first process, 0 while it is being created.
func (c *Container) Pid() int { return c.rec.Pid }

// CgroupPaths returns the container's cgroup directories by controller, under ""
// on a host with v2 alone.
func (c *Container) CgroupPaths() map[string]string { return c.rec.Cgroups }

// Status observes the container now.
func (c *Container) Status() (Status, error) {
	if c.rec.Pid == 0 {
		return specs.StateCreating, nil
	}
	if !alive(c.rec.Pid, c.rec.StartTime) {
		return specs.StateStopped, nil
	}
	if c.waiting() {
		return specs.StateCreated, nil
	}
	g, err := c.cgroups()
	if err != nil || g == nil {
		return specs.StateRunning, err
	}
	frozen, err := g.Frozen()
	if err == nil && frozen {
		return StatusPaused, nil
	}
	return specs.StateRunning, nil
}

// State returns what the command "state" prints.
func (c *Container) State() (*State, error) {
	status, err := c.Status()
	if err != nil {
		return nil, err
	}
	s := &State{State: c.ociState(status), Rootfs: c.rec.Rootfs, Created: c.rec.Created, Owner: c.owner()}
	if status == specs.StateStopped {
		s.Pid = 0
	}
	return s, nil
}

// stateDocument is the state as hooks read it.
//
//easyjson:json
type stateDocument specs.State

// document returns the state as hooks get it.
func (c *Container) document(status Status) ([]byte, error) {
	s := stateDocument(c.ociState(status))
	return fastjson.Marshal(&s)
}

func (c *Container) ociState(status Status) specs.State {
	return specs.State{
		Version: c.rec.Version, ID: c.rec.ID, Status: status, Pid: c.rec.Pid,
		Bundle: c.rec.Bundle, Annotations: c.rec.Annotations,
	}
}

// owner names the user whose container it is: the one whose directory holds its
// state.
func (c *Container) owner() string {
	var st unix.Stat_t
	if err := unix.Stat(c.path, &st); err != nil || st.Uid == 0 {
		return "root"
	}
	return strconv.FormatUint(uint64(st.Uid), 10)
}

// spec returns the specification that the container was made of.
func (c *Container) spec() (*specs.Spec, error) {
	b, err := os.ReadFile(filepath.Join(c.path, configFile))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.rec.ID, err)
	}
	return bundle.Parse(b)
}

// List returns all containers below Root, by id.
func (r *Runtime) List() ([]*Container, error) {
	entries, err := os.ReadDir(r.Root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("--root: %w", err)
	}
	var list []*Container
	for _, e := range entries {
		if !e.IsDir() || checkID(e.Name()) != nil {
			continue
		}
		c, err := r.Load(e.Name())
		if errors.Is(err, ErrNotExist) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].rec.ID < list[j].rec.ID })
	return list, nil
}

// alive reports whether the process that was started at a time still runs. A
// zombie does not: nothing of the container is left in it.
func alive(pid int, start uint64) bool {
	t, state, err := processStart(pid)
	return err == nil && t == start && state != 'Z' && state != 'X'
}

// processStart reads fields 22 and 3 of /proc/PID/stat (proc_pid_stat(5)). The name
// in field 2 may contain anything, so counting begins after its last parenthesis.
func processStart(pid int) (start uint64, state byte, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	s := string(b)
	fields := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return start, fields[0][0], err
}

// pidfd returns a descriptor of the first process that cannot come to mean another
// one, or ErrNotRunning.
func (c *Container) pidfd() (int, error) {
	if c.rec.Pid == 0 {
		return -1, fmt.Errorf("%s: %w", c.rec.ID, ErrNotRunning)
	}
	fd, err := unix.PidfdOpen(c.rec.Pid, 0)
	if err == nil {
		// Opened first, compared after: the pid now cannot be reused under us.
		if alive(c.rec.Pid, c.rec.StartTime) {
			return fd, nil
		}
		unix.Close(fd)
	}
	return -1, fmt.Errorf("%s: %w", c.rec.ID, ErrNotRunning)
}

// OpenRoot opens the root filesystem of a living container as its first process sees
// it. Paths below it are to be resolved with RESOLVE_IN_ROOT. It fails with
// ErrNotRunning for one that has ended.
func (c *Container) OpenRoot() (int, error) {
	pidfd, err := c.pidfd()
	if err != nil {
		return -1, err
	}
	defer unix.Close(pidfd)
	fd, err := unix.Open("/proc/"+strconv.Itoa(c.rec.Pid)+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	// Still the same process, so it was its root.
	if perr := unix.PidfdSendSignal(pidfd, 0, nil, 0); perr != nil || err != nil {
		if err == nil {
			unix.Close(fd)
		}
		return -1, fmt.Errorf("%s: %w", c.rec.ID, ErrNotRunning)
	}
	return fd, nil
}
