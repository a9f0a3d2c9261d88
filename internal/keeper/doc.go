// Package keeper speaks to berth-keeper, the one small process per daemon
// that outlives berthd.
//
// # Why there is a keeper
//
// A process's exit status goes to its parent, and its output goes to whoever
// holds the other end of its pipe. If berthd were that parent, its end would
// lose both. So a keeper, which does nothing else and never needs an upgrade
// in a hurry, is the parent (or the subreaper) of every process that must
// survive berthd: the init of each container, each exec, each QEMU, each
// virtiofsd. It holds their standard streams, writes their logs, and records
// how they ended.
//
// # Words
//
// A kept process is a process with an ID that the keeper watches. It is
// started in one of two modes:
//
//   - Direct: the started program itself is kept (QEMU, virtiofsd).
//   - Runtime: Args are a command line of an OCI runtime. It ends with status 0
//     and leaves the kept process behind, a child of the keeper, whose pid it has
//     written to PIDFile. The runtime is not started for it: it stands by while
//     there is something to do (package standby).
//
// A kept process stays listed after its end until Forget, unless it is Ephemeral and
// was started with a client attached, who is told. The keeper itself ends by a
// Shutdown, or when its run directory has gone and nothing runs any more.
//
// # Streams
//
// Output goes to the log (package crilog) and to every attached client. A
// client sees what is written from the moment it attaches. A client that does
// not read does not slow the process down: when ClientBuffer bytes wait for
// it, it is cut off, and its Attachment ends with kind Exhausted. A client
// whose output must be whole, as that of "berth run web tar c / | …", attaches
// with Wait: then the process waits for it, as it would for a pipe.
//
// A full disk does not block the process either: log bytes that cannot be
// written are dropped and counted (Status.LogDropped), and once there is room
// again one line in the log says how many were lost. A disk that hangs is
// another matter: writing to it waits in the kernel, and the process waits once
// its pipe is full.
//
// # What survives whom
//
//   - berthd dies: nothing happens to kept processes, logs or exit codes.
//   - The keeper dies: processes with Pipes go on. Their pipes are FIFOs of
//     the keeper's directory which the process itself holds open for reading
//     and writing, so that a missing reader neither ends a stream nor raises
//     SIGPIPE; output waits in the pipe. The next keeper reopens the pipes and
//     finds the processes by pid and start time. It is not their parent any
//     more, and learns their exit code through PIDFD_GET_INFO (Linux 6.15); on
//     older kernels, or where a process ended while no keeper ran, Exit.Unknown
//     says why there is no code. A process reading its standard input sees its
//     end. The partial line in the dead keeper's memory is lost.
//   - With a terminal the process gets SIGHUP, as when a terminal's window is
//     closed: the terminal belongs to the keeper.
//   - Sockets (VMs) are connected anew by the next keeper.
//   - Processes marked Ephemeral (execs) have plain pipes: writing after the
//     keeper's death raises SIGPIPE.
//
// # The protocol
//
// One stream connection to the keeper's unix socket carries one call. Both
// sides send frames (frame.go): a type byte, a length, a payload.
//
//	client                                keeper
//	  │── request (JSON) ────────────────▶│   peer credentials: same uid
//	  │◀────────────────── reply (JSON) ──│   most calls end here
//	  │◀────────────────── reply (JSON) ──│   start with wait: the process has ended
//	  │                                   │
//	  │── stdin, control ────────────────▶│   attach, start with attach:
//	  │◀──────── stdout, stderr, control ─│   until the process has ended (control
//	  │                                   │   "exit") or a side closes
//
// The keeper never calls berthd.
package keeper
