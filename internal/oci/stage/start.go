package stage

import (
	"os"

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
		i.conn, i.warnings = caller, nil
		if len(g.State) > 0 {
			i.state = g.State
		}
		break
	}
	if err := hook.Run("startContainer", i.plan.Hooks.StartContainer, i.state); err != nil {
		return err
	}
	return i.finish()
}
