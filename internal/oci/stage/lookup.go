package stage

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/mount"
	"github.com/berthcloud/berth/internal/oci/wire"
)

// Resolve finds in the container's root who the workload runs as and what it executes,
// so that create fails and not start where there is no such user or command. It looks
// from outside: a path is resolved within the root by the kernel, and nothing is opened
// but regular files.
func (p *Process) Resolve(root mount.Root) error {
	if err := p.resolveUser(root); err != nil {
		return err
	}
	return p.lookPath(root)
}

// lookPath finds the program: a name with a slash as it is, any other along the
// container's PATH. The first match that can be executed wins, as in a shell.
func (p *Process) lookPath(root mount.Root) error {
	if len(p.Args) == 0 {
		return nil // refused when it is to be started
	}
	if err := checkCwd(root, p.Cwd); err != nil {
		return fmt.Errorf("process.cwd: %s: %w", p.Cwd, err)
	}
	name := p.Args[0]
	if strings.Contains(name, "/") {
		p.path = name
		return p.checkProgram(name, p.checkExecutable(root, name))
	}
	denied := error(nil)
	for _, dir := range filepath.SplitList(pathVariable(p.Env)) {
		if dir == "" {
			dir = "."
		}
		path := dir + "/" + name
		err := p.checkExecutable(root, path)
		if err == nil {
			p.path = path
			return nil
		}
		if errors.Is(err, unix.EACCES) && denied == nil {
			denied, p.path = err, path
		}
	}
	if denied != nil {
		return p.checkProgram(p.path, denied)
	}
	return &wire.Failure{Code: 127, Text: fmt.Sprintf("process.args[0]: %q: executable file not found in $PATH of the container", name)}
}

// checkCwd fails where chdir is going to; the process has the last word.
func checkCwd(root mount.Root, path string) error {
	fd, err := root.Open(path, unix.O_PATH|unix.O_DIRECTORY, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return err
	case err == nil:
		unix.Close(fd)
	}
	return nil
}

// checkProgram gives the reason why a path cannot be executed the exit status of a shell.
func (p *Process) checkProgram(path string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return &wire.Failure{Code: 127, Text: fmt.Sprintf("process.args[0]: %q: no such file or directory in the container", path)}
	}
	return &wire.Failure{Code: 126, Text: fmt.Sprintf("process.args[0]: %q: cannot be executed: %v", path, err)}
}

// checkExecutable reports why a path, perhaps relative to the working directory, cannot
// be executed, as far as its mode tells; the kernel has the last word in execve.
func (p *Process) checkExecutable(root mount.Root, path string) error {
	if !strings.HasPrefix(path, "/") {
		path = p.Cwd + "/" + path
	}
	fd, err := root.Open(path, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return fmt.Errorf("is a directory (%w)", unix.EACCES)
	}
	if st.Mode&0o111 == 0 {
		return unix.EACCES
	}
	return nil
}

// defaultPath is searched where the environment has no PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func pathVariable(env []string) string {
	for _, e := range slices.Backward(env) {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			return v
		}
	}
	return defaultPath
}
