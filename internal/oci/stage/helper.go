package stage

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/hook"
	"github.com/berthcloud/berth/internal/oci/mount"
	"github.com/berthcloud/berth/internal/oci/program"
	"github.com/berthcloud/berth/internal/oci/wire"
)

// HelperName is what a helper is called (argv[0]).
const HelperName = "berth-helper"

// IsHelper reports whether the program was started as a helper.
func IsHelper(args []string) bool { return len(args) == 1 && args[0] == HelperName }

// helperEnv is the environment of a helper, which lives for a moment.
func helperEnv() []string { return []string{"GOMAXPROCS=1", "GOGC=off"} }

// help has a helper do a Job of the runtime's in the container's namespaces. Its
// standard input is the conversation; before gives it more.
func (c *code) help(before func()) {
	pid, status, parent := c.Slot(0), c.Slot(0), c.NewLabel()
	c.Say(program.Help, "")
	c.Call("clone", unix.SYS_CLONE, program.N(int(unix.SIGCHLD)), program.N(0), program.N(0), program.N(0), program.N(0)).Store(pid)
	c.TestSlot(pid, 0, parent)
	c.Call("dup3", unix.SYS_DUP3, c.Conn().Value(), program.N(0), program.N(0))
	if before != nil {
		before()
	}
	c.Call("close_range", unix.SYS_CLOSE_RANGE, program.N(3), program.N(^uint32(0)), program.N(unix.CLOSE_RANGE_CLOEXEC))
	c.Call("execveat", unix.SYS_EXECVEAT, program.N(c.proc.number(exeFile)), c.empty(), c.Strings([]string{HelperName}).Arg(), c.Strings(helperEnv()).Arg(), program.N(unix.AT_EMPTY_PATH))
	c.Here(parent)
	c.Call("wait4", unix.SYS_WAIT4, pid.Value(), program.Ref(status).Arg(), program.N(0), program.N(0))
	// It has said itself what went wrong.
	c.TestSlot(status, 0, c.gone)
}

// Help is the main function of a helper: it does one job inside the container, on behalf
// of the process that is its parent. It returns the exit status.
func Help() int {
	// Unreadable through /proc and not to be traced by what already runs in the
	// namespaces (CVE-2016-9962).
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	conn := wire.Conn{FD: 0}
	job, err := conn.ReceiveJob()
	if err != nil {
		return 1
	}
	err = do(job)
	if conn.SendResult(err) != nil || err != nil {
		return 1
	}
	return 0
}

func do(j wire.Job) error {
	if j.CopyUp {
		return mount.CopyUp(1, 2)
	}
	var state specs.State
	if err := json.Unmarshal(j.State, &state); err != nil {
		return fmt.Errorf("the state for %s hooks: %w", j.Point, err)
	}
	// As the hooks see it, in the container's PID namespace.
	state.Pid = os.Getppid()
	text, err := json.Marshal(state)
	if err != nil {
		return err
	}
	return hook.Run(j.Point, j.Hooks, text)
}
