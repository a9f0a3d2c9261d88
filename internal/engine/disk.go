package engine

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"syscall"

	"github.com/docker/go-units"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/instance"
)

// completeDisk is complete for an instance of a disk image, which is a VM whether that
// was asked for or not, and starts an init of its own. Of another image it refuses what
// only such a guest could be told.
func (e *Engine) completeDisk(want, completed api.Spec, id string, img image.Image) (api.Spec, error) {
	fail := func(kind api.ErrorKind, err error) (api.Spec, error) {
		return want, api.E("create", kind, completed.Name, err)
	}
	vm := want.VM
	if img.Disk == nil {
		if vm != withoutDisk(vm) {
			return fail(api.Invalid, fmt.Errorf("--cdrom, --user-data, --network-config and --ssh-key are for disk images, and %s is none: leave them out", completed.Image))
		}
		return completed, nil
	}
	if flag := useless(want, img.Disk.Agent); flag != "" {
		return fail(api.Unsupported, fmt.Errorf("%s holds the disk of a machine, which starts its own system: leave %s out", completed.Image, flag))
	}
	if vm.CDROM != "" && !path.IsAbs(vm.CDROM) || vm.CDROM == "" && vm.BootCDROM {
		return fail(api.Invalid, fmt.Errorf("the disc %q of --cdrom is no absolute path of the host", vm.CDROM))
	}
	if size := len(vm.UserData) + len(vm.NetworkConfig) + len(vm.SSHKeys); size > maxSeed {
		return fail(api.Invalid, fmt.Errorf("%s of user data, network configuration and SSH keys are more than %s", units.BytesSize(float64(size)), units.BytesSize(maxSeed)))
	}
	want.Kind, want.Name, want.Hostname = api.VM, completed.Name, completed.Hostname
	want.TTY, want.OpenStdin, want.StdinOnce = true, true, false // a serial line is a terminal
	if want.StopTimeout == 0 {
		want.StopTimeout = api.Duration(systemStopTimeout)
	}
	if want.Limits.Disk == 0 {
		want.Limits.Disk = max(defaultVMDisk, img.Disk.Size)
	}
	return e.complete(want, id)
}

// withoutDisk is a wish without what is for disk images alone.
func withoutDisk(vm api.VMSpec) api.VMSpec {
	vm.CDROM, vm.BootCDROM, vm.UserData, vm.NetworkConfig, vm.SSHKeys = "", false, "", "", ""
	return vm
}

// checkDisc refuses a disc that is not there when a machine starts.
func checkDisc(disc string) error {
	if disc == "" {
		return nil
	}
	info, err := os.Stat(disc)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return api.E("", api.NotFound, disc, errors.New("no such disc on the host; name another with --cdrom"))
	case err == nil && !info.Mode().IsRegular():
		return api.E("", api.Invalid, disc, errors.New("it is no file that could be a disc; name another with --cdrom"))
	}
	return err
}

// maxSeed bounds what a guest is told by its user, in bytes: cloud-init's data sources
// have less, and a request not much more.
const maxSeed = 512 << 10

// useless names the first wish that means nothing to a machine that starts from a disk;
// "" where there is none.
func useless(s api.Spec, agent bool) string {
	for _, wish := range []struct {
		flag string
		set  bool
	}{
		{"the command", len(s.Command) > 0}, {"--entrypoint", len(s.Entrypoint) > 0}, {"-e", len(s.Env) > 0},
		{"-u", s.User != ""}, {"-w", s.WorkingDir != ""}, {"--init", s.Init != "" && s.Init != api.InitNone},
		{"--stop-signal", s.StopSignal != ""}, {"--read-only", s.Security.ReadOnly}, {"--pids-limit", s.Limits.PIDs != 0},
		{"--cap-add", len(s.Security.CapAdd) > 0}, {"--cap-drop", len(s.Security.CapDrop) > 0}, {"--ulimit", len(s.Ulimits) > 0},
		{"--kernel", s.VM.Kernel != ""},
		{"-v, --mount and --tmpfs (no agent is in this guest that would mount them)", !agent && slices.ContainsFunc(s.Mounts, func(m api.Mount) bool { return m.Type != api.MountDisk || m.Target != "" })},
		{"--health-cmd (no agent is in this guest that would run it)", !agent && s.Health != nil && !slices.Equal(s.Health.Test, []string{"NONE"})},
	} {
		if wish.set {
			return wish.flag
		}
	}
	return ""
}

// diskProcess is process for a disk image: what is left is the terminal.
func diskProcess(s api.Spec, _ api.ImageConfig, _ string) (instance.Process, error) {
	if s.Kind != api.VM {
		return instance.Process{}, errors.New("it holds a disk, which only a VM starts; make it a VM with --vm")
	}
	return instance.Process{TTY: s.TTY, OpenStdin: s.OpenStdin, StopSignal: int(syscall.SIGTERM)}, nil
}
