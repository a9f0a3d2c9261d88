package guest

import (
	"cmp"
	"encoding/json"
	"errors"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/agent"
)

// serve answers the host on the control port for as long as the machine runs.
func (m *machine) serve() {
	port, err := openPort(agent.PortControl, unix.O_RDWR)
	if err != nil {
		return // this machine has no such port
	}
	line, err := newHostLine(port)
	if err != nil {
		return
	}
	server := agent.NewServer(line.write, m.answer)
	if serialLine(agent.PortControl) != "" {
		_ = line.write(agent.Presence()) // fails as the line itself would
	}
	for {
		line.await()
		_ = server.Serve(line) // ends with each host; the next one begins anew
	}
}

// answer carries out one call.
func (m *machine) answer(c *agent.Call) {
	r := &c.Request
	if m.isService() && slices.Contains([]agent.Op{agent.OpSignal, agent.OpResize, agent.OpLimitPIDs, agent.OpShutdown}, r.Op) {
		m.answerService(c)
		return
	}
	switch r.Op {
	case agent.OpExec:
		m.exec(c)
	case agent.OpSignal:
		c.Reply(replyOf(m.reaper.signal(m.main, unix.Signal(r.Signal))))
	case agent.OpResize:
		if m.console == nil {
			c.Reply(agent.Reply{Kind: api.Conflict, Error: "the instance has no terminal"})
			return
		}
		c.Reply(replyOf(resize(m.console, r.Size)))
	case agent.OpCopyIn:
		c.Reply(replyOf(copyIn(r.Path, c.Stdin())))
	case agent.OpCopyOut:
		c.Reply(replyOf(copyOut(r.Path, c.Output(agent.ChannelStdout))))
	case agent.OpLayer:
		c.Reply(replyOf(m.layer(r, c.Output(agent.ChannelStdout))))
	case agent.OpPlace:
		c.Reply(replyOf(placeFirst(r.Path, c.Stdin())))
	case agent.OpRoot:
		root, err := readRoot(r.Path, c.Output(agent.ChannelStdout))
		reply := replyOf(err)
		reply.Root = &root
		c.Reply(reply)
	case agent.OpFreeze:
		c.Reply(replyOf(freeze(c)))
	case agent.OpStats:
		stats, err := readStats()
		reply := replyOf(err)
		reply.Stats = &stats
		c.Reply(reply)
	case agent.OpTop:
		list, err := listProcesses()
		if err == nil {
			err = json.NewEncoder(c.Output(agent.ChannelStdout)).Encode(list)
		}
		c.Reply(replyOf(err))
	case agent.OpLimitPIDs:
		c.Reply(replyOf(m.group.limitPIDs(r.Limit)))
	case agent.OpUseCPUs:
		c.Reply(replyOf(useCPUs(int(r.Limit))))
	case agent.OpGrowDisk:
		c.Reply(replyOf(m.growDisk(r.Limit)))
	case agent.OpSetClock:
		now := unix.NsecToTimespec(r.Time)
		c.Reply(replyOf(unix.ClockSettime(unix.CLOCK_REALTIME, &now)))
	case agent.OpRefresh:
		c.Reply(replyOf(wake(r.Wake)))
	case agent.OpHold:
		c.Reply(replyOf(m.held.hold(c.Over)))
	case agent.OpLetGo:
		c.Reply(replyOf(m.held.letGo()))
	case agent.OpBecome:
		c.Reply(replyOf(m.become(r.Config)))
	case agent.OpPing:
		c.Reply(agent.Reply{})
	case agent.OpShutdown:
		c.Reply(replyOf(m.reaper.signal(m.main, cmp.Or(m.stopSignal, unix.SIGKILL))))
	default:
		c.Reply(agent.Reply{Kind: api.Unsupported, Error: "the guest's agent is older than this call: " + string(r.Op)})
	}
}

// replyOf puts an error into a reply.
func replyOf(err error) agent.Reply {
	switch {
	case err == nil:
		return agent.Reply{}
	case errors.Is(err, errEnded):
		return agent.Reply{Kind: api.Conflict, Error: err.Error()}
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return agent.Reply{Kind: api.NotFound, Error: err.Error()}
	case errors.Is(err, unix.EINVAL):
		return agent.Reply{Kind: api.Invalid, Error: err.Error()}
	case errors.Is(err, unix.ENOSPC):
		return agent.Reply{Kind: api.Exhausted, Error: err.Error()}
	}
	return agent.Reply{Kind: api.Internal, Error: err.Error()}
}
