package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/instance/vm"
	"github.com/berthcloud/berth/internal/network"
	"github.com/berthcloud/berth/internal/undo"
)

// PreparedName is the file in a step's directory that says what it was made from.
const PreparedName = "prepared.json"

// begin reserves ids and an endpoint for a step.
func (s *Service) begin(ctx context.Context, r stepRequest) (step Step, err error) {
	var u undo.Stack
	defer u.Run(ctx, &err)
	kind, link := api.Container, network.Veth
	if s.Config.VM {
		kind, link = api.VM, network.Tap
		if step.Kernel, err = s.kernel(ctx); err != nil {
			return step, err
		}
	}
	if step.Users, err = s.Users.ReserveUsers(kind); err != nil {
		return step, err
	}
	u.Add(func(context.Context) error { s.Users.ReleaseUsers(step.Users); return nil })
	if r.Network {
		ep, err := s.Network.Attach(ctx, network.Request{ID: r.ID, Names: []string{r.ID[:12]}, LinkKind: link})
		if err != nil {
			return step, err
		}
		step.Endpoint = &ep
	}
	s.reserved.Lock()
	defer s.reserved.Unlock()
	s.steps[r.ID] = step
	u.Release()
	return step, nil
}

// stepKernel is the kernel of steps in VMs.
const stepKernel = "kernel/debian-cloud"

// kernel returns the kernel of a step in a VM.
func (s *Service) kernel(ctx context.Context) (instance.Kernel, error) {
	k, err := s.Images.Kernel(ctx, stepKernel)
	if api.IsKind(err, api.NotFound) {
		err = api.E("", api.NotFound, stepKernel, errors.New("no such kernel here, in which steps of untrusted builds run: make it with 'berth kernel bootstrap cloud'"))
	}
	return instance.Kernel{Name: k.Name, Arch: k.Arch, Release: k.Release, Vmlinux: k.Vmlinux, Modules: k.Modules, Config: k.Config}, err
}

// end gives back what begin reserved.
func (s *Service) end(ctx context.Context, id string) error {
	s.reserved.Lock()
	step, ok := s.steps[id]
	delete(s.steps, id)
	s.reserved.Unlock()
	if !ok {
		return nil
	}
	s.Users.ReleaseUsers(step.Users)
	if step.Endpoint == nil {
		return nil
	}
	return s.Network.Detach(ctx, id)
}

// name gives content a name and has its layers made ready, for an instance that comes
// next. What cannot be made ready here, as an image of another platform, has its name
// all the same.
func (s *Service) name(ctx context.Context, img images.Image) (images.Image, error) {
	full, err := image.FullTag(img.Name)
	if err != nil {
		return img, err
	}
	img.Name = full
	named, err := s.backing.Images.Update(ctx, img)
	if errdefs.IsNotFound(err) {
		named, err = s.backing.Images.Create(ctx, img)
	}
	if err != nil {
		return named, err
	}
	if err := s.Images.Ready(ctx, img.Name); err != nil {
		s.Log.Debug("a built image is not ready for use", "image", img.Name, "error", err)
	}
	return named, nil
}

func (s *Service) collect(ctx context.Context) error {
	_, err := s.Images.Collect(ctx)
	return err
}

// sweep ends the steps that a builder has left, their keeper and their directories.
func (s *Service) sweep(ctx context.Context) error {
	dir := s.Config.StepsDir()
	_, err := os.Stat(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	// A builder whose daemon was killed is about to end its steps itself.
	lock, err := LockSteps(s.Config)
	if err != nil {
		return err
	}
	defer lock.Close()
	list, err := os.ReadDir(dir)
	for _, d := range list {
		step := filepath.Join(dir, d.Name())
		err = errors.Join(err, endStep(ctx, step, s.Steps), os.RemoveAll(step))
	}
	if machines, ok := s.Steps.(*vm.Driver); ok { // it may have been making a template
		err = errors.Join(err, machines.Recover(ctx))
	}
	// The next builder's steps must not be in the mount namespace of this one's.
	if ended := s.Keeper.Shutdown(ctx); ended != nil && !api.IsKind(ended, api.Unavailable) {
		err = errors.Join(err, ended)
	}
	return api.E("sweep the steps of builds", "", dir, err)
}

// Lock is held by a builder as long as it lives. It waits for that of another, which
// ends when its daemon has and its cache is on the disk.
func Lock(c Config) (io.Closer, error) { return lock(filepath.Join(c.Root, "lock")) }

// LockSteps is held by a builder as long as it may have steps. It waits for that of
// another, which ends them soon after its daemon has: not as long as the disk takes.
func LockSteps(c Config) (io.Closer, error) { return lock(filepath.Join(c.Root, "steps.lock")) }

func lock(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("wait for the builder before: %w", err)
	}
	return f, nil
}

// endStep ends one step, whose run may be gone already.
func endStep(ctx context.Context, dir string, driver instance.Driver) error {
	text, err := os.ReadFile(filepath.Join(dir, PreparedName))
	if errors.Is(err, os.ErrNotExist) {
		return nil // nothing was made of it yet
	}
	var p instance.Prepared
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err != nil {
		return err
	}
	h, err := driver.Adopt(ctx, &p)
	if api.IsKind(err, api.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return h.Delete(ctx)
}
