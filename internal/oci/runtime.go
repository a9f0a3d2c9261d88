// Package oci is an OCI runtime for Linux as a library: it turns a bundle into a
// container and looks after it. The command berth-oci puts a command line on it.
//
// # The life of a container
//
//	create ─▶ created ─▶ start ─▶ running ─▶ stopped ─▶ delete
//	                                 ◀─▶ paused
//
// Create leaves the container's first process inside its namespaces, waiting at
// the start socket just before it runs the workload. That process becomes the
// workload by execve: no process of the runtime stays behind.
//
// # On disk
//
// Below Root there is a directory for each container:
//
//	ID/config.json   the specification it was made of
//	ID/state.json    pid, cgroups, time; written atomically
//	ID/start.sock    where the first process waits for start
//
// Making the directory reserves the id. An exclusive flock on it is held by
// whoever changes the container; the kernel drops it when the holder dies, so
// what a killed create leaves behind can be told from one at work, and deleted.
//
// # Packages
//
// bundle reads config.json; spawn enters namespaces; mount and cgroup prepare from
// outside; stage compiles what happens inside, and program carries it out; wire is
// the conversation with it; seccomp compiles filters; listener hands what a filter asks
// about to an agent; criu writes processes to files and makes them anew.
package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// DefaultRoot is where state is kept unless told otherwise.
const DefaultRoot = "/run/berth-oci"

// InitAnnotation says what the first process is. With InitReap it is a tiny one
// that reaps orphans and passes signals on to the workload, which becomes its
// child. With InitSystem the workload is an init, and its terminal a console: it is
// nobody's controlling terminal, so that a login on it can make it its own.
const (
	InitAnnotation = "cloud.berth.init"
	InitReap       = "reap"
	InitSystem     = "system"
)

// Runtime runs containers whose state is kept below Root. It may be used from many
// goroutines and many processes at once.
type Runtime struct {
	Root string

	// Siblings makes the processes of containers children of this process's parent,
	// which reaps them.
	Siblings bool

	// Warn is told of what was asked for and could not be had, harmlessly: a lower
	// oom_score_adj without the privilege, a capability the kernel does not have.
	// May be nil.
	Warn func(string)

	// SystemdCgroup has systemd make the cgroups: a transient scope for each container.
	SystemdCgroup bool

	// Entered says that this process is root of the user namespace that the bundle asks
	// for: see Enter.
	Entered bool
}

// ruleID is what the specification says about bad ids.
const ruleID = `(runtime.md: "If the ID provided is not unique across all containers within the scope of the runtime, or is not valid in any other way, the implementation MUST generate an error")`

// Errors that callers tell apart. They are wrapped with the container's id.
var (
	ErrNotExist   = errors.New("container does not exist")
	ErrExist      = errors.New("container already exists " + ruleID)
	ErrNotRunning = errors.New("container not running") // the words by which containerd knows runc's
	ErrRunning    = errors.New(`container is still running; stop it first, or delete with --force (runtime.md: "Attempting to delete a container that is not stopped MUST have no effect on the container and MUST generate an error")`)
	ErrNotCreated = errors.New("container is not in the created state")
	ErrBusy       = errors.New("another command is at work on the container")
	ErrPaused     = errors.New("container is paused; resume it first")
)

func (r *Runtime) warn(format string, args ...any) {
	if r.Warn != nil {
		r.Warn(fmt.Sprintf(format, args...))
	}
}

// maxID bounds an id so that it fits a file name.
const maxID = 255

// checkID refuses an id that could not safely be a directory's name.
func checkID(id string) error {
	switch {
	case id == "":
		return errors.New("the container id is empty " + ruleID)
	case len(id) > maxID:
		return fmt.Errorf("the container id has %d bytes, more than %d %s", len(id), maxID, ruleID)
	case id == "." || id == "..":
		return fmt.Errorf("invalid container id %q %s", id, ruleID)
	}
	for _, c := range []byte(id) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("_+-.", c) >= 0 {
			continue
		}
		return fmt.Errorf("invalid container id %q: only letters, digits, _ + - . are allowed %s", id, ruleID)
	}
	return nil
}

// dir is a container's directory, locked.
type dir struct {
	path string
	fd   int
}

// reserve makes the directory of a new container and locks it.
func (r *Runtime) reserve(id string) (*dir, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(r.Root, 0o700); err != nil {
		return nil, fmt.Errorf("--root: %w", err)
	}
	path := filepath.Join(r.Root, id)
	if err := os.Mkdir(path, 0o700); err != nil {
		if errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("%s: %w", id, ErrExist)
		}
		return nil, fmt.Errorf("--root: %w", err)
	}
	d, err := lock(path)
	if err != nil {
		os.Remove(path)
		return nil, fmt.Errorf("%s: %w", id, err)
	}
	return d, nil
}

// lockDir locks the directory of an existing container.
func (r *Runtime) lockDir(id string) (*dir, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	d, err := lock(filepath.Join(r.Root, id))
	if errors.Is(err, os.ErrNotExist) {
		err = ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", id, err)
	}
	return d, nil
}

// lock opens and locks a directory. A command holds the lock for milliseconds, so
// it waits for a moment, and reports ErrBusy when that was not enough.
func lock(path string) (*dir, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	if err := flock(fd); err != nil {
		unix.Close(fd)
		return nil, err
	}
	// The directory may have been deleted while we waited.
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Nlink == 0 {
		unix.Close(fd)
		return nil, os.ErrNotExist
	}
	return &dir{path, fd}, nil
}

// file returns the path of a file in the directory.
func (d *dir) file(name string) string { return filepath.Join(d.path, name) }

func (d *dir) unlock() { unix.Close(d.fd) }

// remove deletes the directory and what the runtime puts there.
func (d *dir) remove() error {
	err := os.RemoveAll(d.path)
	d.unlock()
	return err
}
