package guest

import (
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/agent"
)

// exec runs a command beside the entrypoint.
func (m *machine) exec(c *agent.Call) {
	x := c.Request.Exec
	if x == nil {
		c.Reply(agent.Reply{Kind: api.Invalid, Error: "no command"})
		return
	}
	cmd := m.command(m.beside(x.Process))
	cmd.terminal = x.TTY
	if x.Alone {
		apart, err := m.group.apart()
		if err != nil {
			c.Reply(replyOf(err))
			return
		}
		defer apart.Close()
		cmd.apart, cmd.cgroup = apart, int(apart.Fd())
	}
	if _, set := variable(cmd.process.Env, "TERM"); x.TTY && !set {
		cmd.process.Env = append(cmd.process.Env, "TERM=xterm")
	}
	if x.TTY {
		m.execOnTerminal(c, cmd)
		return
	}
	var ours [3]*os.File
	for i := range cmd.files {
		r, w, err := os.Pipe()
		if err != nil {
			closeAll(ours[:])
			closeAll(cmd.files[:])
			c.Reply(replyOf(err))
			return
		}
		if cmd.files[i], ours[i] = w, r; i == 0 {
			cmd.files[i], ours[i] = r, w
		}
	}
	if !x.Stdin {
		ours[0].Close() // the command finds the end at once
	}
	p, failed := m.reaper.start(cmd)
	closeAll(cmd.files[:])
	if failed != nil {
		closeAll(ours[:])
		c.Reply(failureReply(failed))
		return
	}
	if x.Stdin {
		go func() {
			_, _ = io.Copy(ours[0], c.Stdin())
			ours[0].Close()
		}()
	}
	m.killWith(c, p)
	var output sync.WaitGroup
	output.Go(func() { _, _ = io.Copy(c.Output(agent.ChannelStdout), ours[1]) })
	output.Go(func() { _, _ = io.Copy(c.Output(agent.ChannelStderr), ours[2]) })
	exit := m.end(cmd, p)
	output.Wait()
	closeAll(ours[1:])
	c.Reply(agent.Reply{Exit: &exit})
}

// beside completes a command with what it shares with the entrypoint.
func (m *machine) beside(p agent.Process) agent.Process {
	p.Env = merge(m.config.Process.Env, p.Env)
	if p.User == "" {
		p.User = m.config.Process.User
	}
	if p.Dir == "" {
		p.Dir = m.config.Process.Dir
	}
	return p
}

// merge adds variables to an environment. Of two with one name the later one
// stays alone: programs differ in which of them they would read.
func merge(env, more []string) []string {
	var merged []string
	for _, v := range append(slices.Clone(env), more...) {
		name, _, _ := strings.Cut(v, "=")
		merged = slices.DeleteFunc(merged, func(have string) bool { return strings.HasPrefix(have, name+"=") })
		merged = append(merged, v)
	}
	return merged
}

// execOnTerminal runs a command on a terminal of its own.
func (m *machine) execOnTerminal(c *agent.Call, cmd command) {
	master, slave, err := openTerminal(c.Request.Exec.Size)
	if err != nil {
		c.Reply(replyOf(err))
		return
	}
	defer master.Close()
	cmd.files = [3]*os.File{slave, slave, slave}
	p, failed := m.reaper.start(cmd)
	slave.Close()
	if failed != nil {
		c.Reply(failureReply(failed))
		return
	}
	if c.Request.Exec.Stdin {
		go func() { _, _ = io.Copy(master, c.Stdin()) }()
	}
	go func() {
		for message, more := c.Control(); more; message, more = c.Control() {
			if message.Resize != nil {
				_ = resize(master, *message.Resize)
			}
		}
	}()
	m.killWith(c, p)
	// The master ends with an error when the last process has closed the terminal.
	over := make(chan agent.Exit, 1)
	go func() { over <- m.end(cmd, p) }()
	_, _ = io.Copy(c.Output(agent.ChannelStdout), master)
	exit := <-over
	c.Reply(agent.Reply{Exit: &exit})
}

// end waits for a command, and ends what it leaves running where that is not to stay.
func (m *machine) end(cmd command, p *process) agent.Exit {
	exit := p.wait()
	exit.OOM = exit.Code == 128+int(unix.SIGKILL) && oomKills() > 0
	if cmd.apart != nil {
		endApart(cmd.apart.Name())
	}
	return exit
}

// killWith kills the command when the host gives the call up.
func (m *machine) killWith(c *agent.Call, p *process) {
	go func() {
		if c.Canceled() {
			_ = m.reaper.signal(p, unix.SIGKILL)
		}
	}()
}

// failureReply says why a command could not be started.
func failureReply(failed *agent.Exit) agent.Reply {
	kind := map[int]api.ErrorKind{agent.CodeNotFound: api.NoCommand, agent.CodeNotRunnable: api.NotRunnable}[failed.Code]
	if kind == "" {
		kind = api.Internal
	}
	return agent.Reply{Kind: kind, Error: failed.Error}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
