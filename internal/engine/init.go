package engine

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// defaultInit is what boots a system container unless its entrypoint is named.
const defaultInit = "/sbin/init"

// systemd is the name of its program.
const systemd = "systemd"

// systemStopTimeout is what the services of a machine have to end in.
const systemStopTimeout = time.Minute

// validateInit refuses what a system container cannot be: its rights are
// harmless only within a user namespace of its own.
func validateInit(s api.Spec) error {
	switch s.Init {
	case api.InitNone, api.InitReap:
		return nil
	case api.InitSystem:
	default:
		return fmt.Errorf("init %q is unknown; use none, reap or system", s.Init)
	}
	switch {
	case s.Kind == api.VM:
		return errors.New("--init=system is for containers: process 1 of a VM is Berth's agent; leave out --vm to boot the image's init, or --init to run its command")
	case s.Security.HostUsers:
		return errors.New("--init=system gives the image's init rights that only a user namespace of its own makes harmless; leave out --userns=host")
	case s.User != "":
		return errors.New("--init=system boots the image's init, which is root's; leave out --user")
	case len(s.Entrypoint) > 0 && !path.IsAbs(s.Entrypoint[0]):
		return fmt.Errorf("--init=system boots an init by its path, and %q is none that begins with /; name it as in --entrypoint %s", s.Entrypoint[0], defaultInit)
	}
	return nil
}

// bootInit makes of a process the image's init, as root and on a console, with
// the words of the command as its arguments.
func bootInit(p *instance.Process, s api.Spec) {
	init := s.Entrypoint
	if len(init) == 0 {
		init = []string{defaultInit}
	}
	p.Args, p.User, p.WorkingDir, p.TTY = slices.Concat(init, s.Command), "0", "/", true
}

// initEnv tells an init where it is (https://systemd.io/CONTAINER_INTERFACE).
func initEnv(s api.Spec, id string) []string {
	if s.Init != api.InitSystem {
		return nil
	}
	uuid := instance.MachineID(id)
	env := []string{
		"container=berth",
		fmt.Sprintf("container_uuid=%s-%s-%s-%s-%s", uuid[:8], uuid[8:12], uuid[12:16], uuid[16:20], uuid[20:]),
	}
	if !s.TTY {
		env = append(env, "TERM=dumb") // its console leads to a log
	}
	return env
}

// initMounts are the tmpfs that an init expects, but where the user mounts
// something else.
func initMounts(s api.Spec) []api.Mount {
	if s.Init != api.InitSystem {
		return nil
	}
	mounts := []api.Mount{
		{Type: api.MountTmpfs, Target: "/run", Mode: 0o755},
		{Type: api.MountTmpfs, Target: "/run/lock", Size: 5 << 20},
		{Type: api.MountTmpfs, Target: "/tmp"},
	}
	return slices.DeleteFunc(mounts, func(m api.Mount) bool {
		return slices.ContainsFunc(s.Mounts, func(own api.Mount) bool { return path.Clean(own.Target) == m.Target })
	})
}

// prepareInit makes sure that the root filesystem has the init, and finds out at
// which signal it shuts the machine down, unless somebody said so.
func (e *Engine) prepareInit(rec record, p *instance.Prepared) error {
	if rec.Spec.Init != api.InitSystem {
		return nil
	}
	program, err := e.storage.Program(slices.Concat(p.Rootfs.Layers, []string{p.Rootfs.Upper}), p.Process.Args[0])
	if api.IsKind(err, api.NotFound) {
		return api.E("", api.NoCommand, rec.Name, fmt.Errorf("the image %s has no init at %s; name its own with --entrypoint, make one with 'berth image bootstrap debian-init', or leave out --init=system", rec.Spec.Image, p.Process.Args[0]))
	}
	if err != nil {
		return err
	}
	if program == systemd && !e.host.Controls("freezer") {
		return api.E("", api.Unsupported, rec.Name, fmt.Errorf("the image %s boots systemd, which needs a cgroup to divide, and none is delegated to this user; 'berth info' says more", rec.Spec.Image))
	}
	if program == systemd && !e.host.CgroupV2 {
		return api.E("", api.Unsupported, rec.Name, fmt.Errorf("the image %s boots systemd, which needs a host with cgroup v2 alone; boot the host with systemd.unified_cgroup_hierarchy=1, or take an image with another init, as 'berth image bootstrap debian-sysvinit' makes", rec.Spec.Image))
	}
	if rec.Spec.StopSignal == "" && rec.Config.StopSignal == "" {
		p.Process.StopSignal = shutdownSignal(program)
	}
	return nil
}

// shutdownSignal is what asks an init to shut down, by the name of its program.
func shutdownSignal(program string) int {
	const sigrtmin = 34
	switch {
	case program == systemd:
		return sigrtmin + 3 // halt.target: systemd(1), Signals
	case strings.HasPrefix(program, "busybox"):
		return int(syscall.SIGUSR2) // poweroff: init/init.c of busybox
	case program == "init":
		// sysvinit has no signal to halt. It takes SIGINT for Ctrl-Alt-Delete, which
		// inittab(5) everywhere answers with an orderly reboot; one that was asked to
		// stop is not started again.
		return int(syscall.SIGINT)
	}
	return int(syscall.SIGTERM)
}
