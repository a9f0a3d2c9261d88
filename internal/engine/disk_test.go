package engine

import (
	"bytes"
	"strings"
	"testing"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/disk"
	"github.com/berthcloud/berth/internal/image"
)

// A disk image makes a VM of whoever runs it, with a terminal, and refuses what its
// guest cannot be told.
func TestDiskImage(t *testing.T) {
	w := newWorld(t)
	for name, agent := range map[string]bool{"disk/bare": false, "disk/agent": true} {
		opt := image.DiskOptions{Name: name, Format: disk.Raw, Agent: agent}
		if _, err := w.images.ImportDisk(t.Context(), bytes.NewReader(make([]byte, 20<<20)), opt); err != nil {
			t.Fatal(err)
		}
	}
	inst, err := w.Create(t.Context(), api.Spec{Name: "d", Image: "disk/bare"})
	if err != nil {
		t.Fatal(err)
	}
	if s := inst.Spec; s.Kind != api.VM || !s.TTY || !s.OpenStdin || s.Limits.Disk != defaultVMDisk || s.StopTimeout != api.Duration(systemStopTimeout) {
		t.Errorf("completed to %+v", s)
	}
	for name, c := range map[string]struct {
		spec api.Spec
		says string
	}{
		"command":     {api.Spec{Image: "disk/agent", Command: []string{"true"}}, "leave the command out"},
		"variable":    {api.Spec{Image: "disk/agent", Env: []string{"A=b"}}, "leave -e out"},
		"user":        {api.Spec{Image: "disk/agent", User: "me"}, "leave -u out"},
		"init":        {api.Spec{Image: "disk/agent", Init: api.InitSystem}, "leave --init out"},
		"kernel":      {api.Spec{Image: "disk/agent", Kind: api.VM, VM: api.VMSpec{Kernel: "x"}}, "leave --kernel out"},
		"no agent":    {api.Spec{Image: "disk/bare", Mounts: []api.Mount{{Type: api.MountTmpfs, Target: "/x"}}}, "no agent"},
		"seed":        {api.Spec{Image: "base", VM: api.VMSpec{UserData: "#cloud-config"}}, "for disk images"},
		"seed of VM":  {api.Spec{Image: "base", Kind: api.VM, VM: api.VMSpec{SSHKeys: "k"}}, "for disk images"},
		"no disc":     {api.Spec{Image: "disk/agent", VM: api.VMSpec{CDROM: "/nowhere.iso"}}, "no such disc"},
		"a directory": {api.Spec{Image: "disk/agent", VM: api.VMSpec{CDROM: "/etc"}}, "no file that could be a disc"},
		"relative":    {api.Spec{Image: "disk/agent", VM: api.VMSpec{CDROM: "a.iso"}}, "no absolute path"},
		"disc of OCI": {api.Spec{Image: "base", VM: api.VMSpec{CDROM: "/a.iso"}}, "for disk images"},
		"large seed":  {api.Spec{Image: "disk/agent", VM: api.VMSpec{UserData: strings.Repeat("x", maxSeed+1)}}, "more than 512KiB"},
		"VM's choice": {api.Spec{Image: "disk/agent", VM: api.VMSpec{Firmware: api.FirmwareUEFI}}, "add --vm"},
	} {
		if _, err := w.Create(t.Context(), c.spec); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, which does not say %q", name, err, c.says)
		}
	}
}
