package guest

import (
	"os"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/agent"
)

// machine is the running guest.
type machine struct {
	config  *agent.Config
	modules *kernelModules
	disk    *os.File // the root of the writable disk
	reaper  *reaper
	group   workload
	held    stillness

	stopSignal unix.Signal // asks the entrypoint to end; 0 where only the host's word ends it

	main    *process // the entrypoint
	console *os.File // the master of the entrypoint's terminal, or nil
	output  sync.WaitGroup
}

func newMachine(config *agent.Config, modules *kernelModules, disk *os.File) *machine {
	return &machine{config: config, modules: modules, disk: disk, reaper: newReaper()}
}

// run runs the entrypoint to its end and returns how it ended, once all it
// wrote has reached the host.
func (m *machine) run() agent.Exit {
	if failed := m.start(); failed != nil {
		return *failed
	}
	go m.serve()
	late := time.AfterFunc(lateDelay, m.settle)
	defer late.Stop()

	exit := m.main.wait()
	// As in a container, nothing outlives process 1's workload. Its end also
	// closes the last writing end of the output pipes.
	unix.Kill(-1, unix.SIGKILL)
	m.output.Wait()
	return exit
}

// lateDelay is how long the machine leaves the processor to the entrypoint
// before it does what can wait.
const lateDelay = 500 * time.Millisecond

// settle makes the machine fit for a long life.
func (m *machine) settle() {
	debug.SetGCPercent(50) // the memory is the user's
	// Nothing waits for these devices; an error only leaves them away.
	_ = m.modules.load(setLate)
	m.modules.free()
}

// start starts the entrypoint with its streams on the virtio ports.
func (m *machine) start() *agent.Exit {
	if m.config.PIDs > 0 {
		if err := m.group.limitPIDs(m.config.PIDs); err != nil {
			return new(fault(err))
		}
	}
	cmd := m.command(m.config.Process)
	if m.config.TTY {
		return m.startOnTerminal(cmd)
	}
	stdin, err := m.stdin()
	if err != nil {
		return new(fault(err))
	}
	defer stdin.Close()
	stdout, err := m.outputTo(agent.PortStdout)
	if err != nil {
		return new(fault(err))
	}
	defer stdout.Close()
	stderr, err := m.outputTo(agent.PortStderr)
	if err != nil {
		return new(fault(err))
	}
	defer stderr.Close()
	cmd.files = [3]*os.File{stdin, stdout, stderr}
	var failed *agent.Exit
	m.main, failed = m.reaper.start(cmd)
	return failed
}

// command is a process of the user's with all that the machine holds it to.
func (m *machine) command(p agent.Process) command {
	return command{
		process: p, limits: m.config.Limits, cgroup: m.group.birthplace(),
		rights: rights{capabilities: m.config.Capabilities, newPrivs: m.config.NewPrivs},
	}
}

// startOnTerminal starts the entrypoint on a pseudoterminal whose master is
// copied from and to the ports.
func (m *machine) startOnTerminal(cmd command) *agent.Exit {
	master, slave, err := openTerminal(m.config.Size)
	if err != nil {
		return new(fault(err))
	}
	defer slave.Close()
	cmd.files, cmd.terminal = [3]*os.File{slave, slave, slave}, true
	port, err := openPort(agent.PortStdout, unix.O_WRONLY)
	if err != nil {
		return new(fault(err))
	}
	var failed *agent.Exit
	if m.main, failed = m.reaper.start(cmd); failed != nil {
		return failed
	}
	m.console = master
	m.output.Go(func() {
		pump(port, int(master.Fd()))
		unix.Close(port) // which waits until a serial line has taken all
	})
	if m.config.OpenStdin {
		go func() { _ = copyInput(int(master.Fd())) }()
	}
	return nil
}

// stdin returns the reading end of the entrypoint's standard input.
func (m *machine) stdin() (*os.File, error) {
	if !m.config.OpenStdin {
		return os.Open("/dev/null")
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	go func() {
		defer w.Close()
		_ = copyInput(int(w.Fd())) // its end is all that the entrypoint can learn
	}()
	return r, nil
}

// outputTo returns a pipe whose content goes to a port. The workload does not
// get the port itself: a port can be opened once only, and programs open
// /dev/stdout anew.
func (m *machine) outputTo(number int) (*os.File, error) {
	port, err := openPort(number, unix.O_WRONLY)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	m.output.Go(func() {
		pump(port, int(r.Fd()))
		r.Close()
		unix.Close(port)
	})
	return w, nil
}

// report writes the exit to the host, where it outlives this machine.
func report(exit agent.Exit) {
	exit.OOM = exit.Code == 128+int(unix.SIGKILL) && oomKills() > 0
	port, err := openPort(agent.PortExit, unix.O_WRONLY)
	if err != nil {
		return
	}
	writeAll(port, []byte(exit.String()))
	unix.Close(port)
}

// powerOff ends the machine: by a reset at once, which QEMU takes for the end. All
// that is to last has been handed over before, so no driver has to be shut down,
// which takes an emulated processor 10 ms.
func powerOff() {
	if fd, err := unix.Open("/proc/sysrq-trigger", unix.O_WRONLY|unix.O_CLOEXEC, 0); err == nil {
		_, _ = unix.Write(fd, []byte("b"))
	}
	// A kernel without that file, or a user's mount over it, is left to its own way.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {} // process 1 must not end, or the kernel panics
}
