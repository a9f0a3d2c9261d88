package builder

import (
	"context"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/instance"
)

// HoldArg has this program do nothing until its standard input ends.
const HoldArg = "hold"

// userNamespace returns a user namespace with the ids of a step, to map layers through
// before there is the step's own. A namespace begins as a process's.
func userNamespace(ctx context.Context, ids instance.IDRange) (*os.File, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", HoldArg)
	ranges := []syscall.SysProcIDMap{{HostID: int(ids.First), Size: int(ids.Size)}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ranges, GidMappings: ranges}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	f, err := os.Open("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/ns/user")
	_ = in.Close()
	_ = cmd.Wait() // it says nothing of its own
	return f, err
}
