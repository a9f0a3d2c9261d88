package lazy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/undo"
)

// Program starts servers.
type Program struct {
	Path string // of berth-lazy
	User uint32 // it becomes; 0: it stays the caller's
}

// startTime is how long a server may take to read the tables of contents of its layers.
const startTime = 2 * time.Minute

// mountFlags keep the directory to what it is for: reading images.
const mountFlags = unix.MS_RDONLY | unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC

// Start mounts the layers of a request on dir, which it makes, and returns once a server
// shows them. Files are two for each layer: what takes it, which may have a part of it
// already, and an empty one. They stay the caller's.
//
// Errors: Unsupported where a layer, its registry or this kernel does not allow it; Corrupt
// where a layer is not what the request says; those of the registry.
func (p Program) Start(ctx context.Context, dir string, q *Request, files []*os.File) (err error) {
	var u undo.Stack
	defer u.Run(ctx, &err)
	fuse, err := mount(dir, &u)
	if err != nil {
		return err
	}
	defer fuse.Close()
	q.User = int(p.User)
	in, err := json.Marshal(q)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), p.Path, dir) // it outlives the request that it is started for, and berthd
	cmd.Env, cmd.Dir = environment(), "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.ExtraFiles = append([]*os.File{fuse}, files...)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return api.E("", api.Unavailable, p.Path, err)
	}
	heard := make(chan error, 1)
	go func() {
		heard <- listen(out)
		_ = cmd.Wait() // of how it ends the filesystem tells
	}()
	select {
	case err = <-heard:
	case <-time.After(startTime):
		err = api.E("", api.Unavailable, "", fmt.Errorf("the layers' tables of contents did not come within %v", startTime))
	case <-ctx.Done():
		err = api.E("", api.Canceled, "", ctx.Err())
	}
	if err != nil {
		_ = cmd.Process.Kill()
		return err
	}
	u.Release()
	return nil
}

// mount mounts a FUSE filesystem, and returns the descriptor by which it is served.
func mount(dir string, u *undo.Stack) (*os.File, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0) // one that blocks, unlike os.OpenFile's
	if err != nil {
		return nil, api.E("", api.Unsupported, "", fmt.Errorf("this kernel has no FUSE: %w", err))
	}
	fuse := os.NewFile(uintptr(fd), "/dev/fuse")
	err = os.MkdirAll(dir, 0o700)
	if err == nil {
		// QEMU reads as another user what was opened as root.
		err = unix.Mount("berth-lazy", dir, "fuse", mountFlags, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fd))
	}
	if err != nil {
		fuse.Close()
		return nil, api.E("", api.Unsupported, "", fmt.Errorf("mount FUSE on %s: %w", dir, err))
	}
	u.Add(func(context.Context) error { return Detach(dir) })
	return fuse, nil
}

// environment is what a server has of that of berthd: how to reach registries.
func environment() (env []string) {
	known := []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"}
	for _, e := range os.Environ() {
		name, _, _ := strings.Cut(e, "=")
		if slices.Contains(known, strings.ToUpper(name)) {
			env = append(env, e)
		}
	}
	return append(env, "GODEBUG=") // exec.Cmd takes nil for all
}

// listen reads a server's answer.
func listen(out io.Reader) error {
	var a Answer
	if err := json.NewDecoder(io.LimitReader(out, 64<<10)).Decode(&a); err != nil {
		return api.E("", api.Internal, "", fmt.Errorf("the server of layers did not start: %w", err))
	}
	if a.Error != "" {
		return api.E("", a.Kind, "", errors.New(api.OneLine(a.Error)))
	}
	return nil
}

// Detach unmounts what a server has mounted on dir, and removes that. The server ends
// when nobody reads from it any more. It is no error if nothing is mounted.
func Detach(dir string) error {
	_, _ = os.ReadFile(filepath.Join(dir, EndFile)) // where a server is, and not dead
	err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// Release is Detach where nobody reads from what is mounted; else nothing happens.
func Release(dir string) error {
	if s, err := ReadStatus(dir); err == nil && s.Open > 0 {
		return nil
	}
	return Detach(dir)
}

// ReadStatus asks the server of what is mounted on dir. An error means that it is gone.
func ReadStatus(dir string) (s Status, err error) {
	b, err := os.ReadFile(filepath.Join(dir, StatusFile))
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(b, &s)
}
