package stage

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/hook"
	"github.com/berthcloud/berth/internal/oci/wire"
)

// awaitStart waits until someone says Go on the start socket, then runs the
// workload. Why it cannot be run is reported to that someone.
func (i *initStage) awaitStart() error {
	i.conn.Close() // create ends here; it has what it wanted
	for {
		fd, _, err := unix.Accept4(i.listener, unix.SOCK_CLOEXEC)
		if err == unix.EINTR || err == unix.ECONNABORTED {
			continue
		}
		if err != nil {
			return os.NewSyscallError("accept of the start socket", err)
		}
		caller := wire.Conn{FD: fd}
		var g wire.Go
		if _, err := caller.Receive(&g); err != nil {
			caller.Close() // only looked whether we are here, or was killed
			continue
		}
		if len(i.proc.Args) == 0 {
			// "This operation MUST generate an error if process was not set", and an error
			// leaves the container as it was (runtime.md, Start and Errors).
			_ = caller.Send(wire.Report{Phase: wire.Failed, Failure: &wire.Failure{Code: 1, Text: `process: missing, but required to start the container (runtime.md: "This operation MUST generate an error if process was not set")`}})
			caller.Close()
			continue
		}
		i.conn, i.warnings = caller, nil
		i.state = g.State
		break
	}
	if err := i.runHooks("startContainer", i.plan.Hooks.StartContainer); err != nil {
		return err
	}
	return i.finish()
}

// runHooks runs hooks of the container's namespaces. They get its state with "the pid
// as seen by the container" (runtime.md, State).
func (i *initStage) runHooks(point string, hooks []specs.Hook) error {
	if len(hooks) == 0 {
		return nil
	}
	var state specs.State
	if err := json.Unmarshal(i.state, &state); err != nil {
		return fmt.Errorf("the state for %s hooks: %w", point, err)
	}
	state.Pid = os.Getpid()
	text, err := json.Marshal(state)
	if err != nil {
		return err
	}
	return hook.Run(point, hooks, text)
}
