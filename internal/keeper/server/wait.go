package server

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/keeper"
)

// drainTimeout bounds how long the news of an end waits for the last output to
// reach a log on a disk that hangs.
const drainTimeout = 2 * time.Second

// await waits for the end of the process, records it, and tells everybody.
func (p *proc) await(base string) {
	exit := p.waitExit()
	exit.OOM = exit.Signal == int(unix.SIGKILL) && oomKills(p.spec.MemoryCgroup) > 0
	// The record comes first: a keeper that is killed from here on has not
	// lost the exit code.
	p.record(base, exit)
	if p.peer != nil {
		p.peer.Close() // the stream ends with the last one who has the terminal open
	}
	p.drain()
	for _, s := range p.streams {
		if s.tail != nil {
			exit.Stderr = s.tail.end()
			p.record(base, exit)
		}
	}
	p.mu.Lock()
	p.exit = &exit
	p.mu.Unlock()
	if p.leave == nil {
		p.finish()
		p.closeConsole()
		return
	}
	p.leave()
	p.finish()
	p.release()
}

// record writes exit.json. A full RUN directory is no reason to lose the exit:
// it stays in memory.
func (p *proc) record(base string, exit keeper.Exit) {
	if !p.spec.Ephemeral {
		_ = writeJSON(filepath.Join(p.dir(base), exitFile), exit)
	}
}

// drain has every stream read what is left in its pipe, without waiting for
// slow clients.
func (p *proc) drain() {
	close(p.gone)
	p.mu.Lock()
	clients := append([]*client(nil), p.clients...)
	p.mu.Unlock()
	for _, c := range clients {
		c.wake()
	}
	timeout := time.NewTimer(drainTimeout)
	defer timeout.Stop()
	for _, s := range p.streams {
		s.processEnded()
	}
	if p.stdin != nil && p.console == nil {
		p.stdin.close() // a client may still be writing to it
	}
	for _, s := range p.streams {
		select {
		case <-s.drained:
		case <-timeout.C:
			return
		}
	}
}

// waitExit parks on the pidfd until the process has ended.
func (p *proc) waitExit() keeper.Exit {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return unknown(err.Error())
	}
	var exit keeper.Exit
	err = raw.Read(func(fd uintptr) bool {
		child, ended := p.reap()
		switch {
		case ended:
			exit = exitOf(p.wstatus)
			return true
		case child:
			return false
		}
		var polled = []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, _ := unix.Poll(polled, 0); n <= 0 {
			return false // an adopted process that still runs
		}
		exit = foreignExit(int(fd), p.pid)
		return true
	})
	if err != nil {
		return unknown(err.Error())
	}
	return exit
}

// reap collects the status of the process if it is a child of this one and has
// ended. The pid cannot have been reused: only this function reaps it.
func (p *proc) reap() (child, ended bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return true, true
	}
	var ws unix.WaitStatus
	pid, err := wait4(p.pid, &ws)
	if err != nil {
		return false, false
	}
	if pid == p.pid {
		p.reaped, p.wstatus = true, ws
	}
	return true, p.reaped
}

// owns reports whether pid is this process, a child that was not reaped yet.
// An ended or adopted process's pid may belong to another by now.
func (p *proc) owns(pid int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pid == pid && !p.adopted && !p.reaped
}

func wait4(pid int, ws *unix.WaitStatus) (int, error) {
	for {
		n, err := unix.Wait4(pid, ws, unix.WNOHANG, nil)
		if err != unix.EINTR {
			return n, err
		}
	}
}

func exitOf(ws unix.WaitStatus) keeper.Exit {
	e := keeper.Exit{Code: ws.ExitStatus(), Time: time.Now()}
	if ws.Signaled() {
		e.Signal = int(ws.Signal())
		e.Code = 128 + e.Signal
	}
	return e
}

func unknown(why string) keeper.Exit {
	return keeper.Exit{Code: 255, Unknown: why, Time: time.Now()}
}

// foreignExit returns how a process ended that is not a child of this one: its
// parent, a former keeper, was killed. The kernel tells the status through the
// pidfd once the process has been reaped by whoever inherited it (Linux 6.15,
// commit 7477d7dce48a "pidfs: allow to retrieve exit information"); until then
// it is in /proc.
func foreignExit(pidfd, pid int) keeper.Exit {
	const patience = 2 * time.Second
	for deadline := time.Now().Add(patience); ; <-time.After(5 * time.Millisecond) {
		info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
		err := unix.IoctlPidfdInfo(pidfd, &info)
		if err == nil && info.Mask&unix.PIDFD_INFO_EXIT != 0 {
			return exitOf(unix.WaitStatus(info.Exit_code))
		}
		if st, serr := readStat(pid); serr == nil && st.state == 'Z' {
			return exitOf(unix.WaitStatus(st.exitCode))
		}
		if err != nil || time.Now().After(deadline) {
			return unknown("the keeper that started the process was killed, and this kernel tells the exit code to nobody else (Linux 6.15 does)")
		}
	}
}

// procStat is what is used of /proc/PID/stat.
type procStat struct {
	state    byte
	ppid     int
	birth    uint64 // clock ticks since boot
	exitCode int    // a wait status
}

// readStat reads /proc/PID/stat. Fields are counted after the command name,
// which may itself hold blanks and parentheses (proc_pid_stat(5)).
func readStat(pid int) (procStat, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return procStat{}, err
	}
	i := bytes.LastIndexByte(data, ')')
	if i < 0 {
		return procStat{}, fmt.Errorf("malformed /proc/%d/stat", pid)
	}
	f := strings.Fields(string(data[i+1:]))
	if len(f) < 50 {
		return procStat{}, fmt.Errorf("malformed /proc/%d/stat", pid)
	}
	// f[0] is field 3, the state; 4 is the parent, 22 the start time, 52 the
	// exit code.
	ppid, err1 := strconv.Atoi(f[1])
	birth, err2 := strconv.ParseUint(f[19], 10, 64)
	code, err3 := strconv.Atoi(f[49])
	if err1 != nil || err2 != nil || err3 != nil {
		return procStat{}, fmt.Errorf("malformed /proc/%d/stat", pid)
	}
	return procStat{state: f[0][0], ppid: ppid, birth: birth, exitCode: code}, nil
}

// oomKills returns how many processes the kernel has killed in the cgroup for
// want of memory, 0 where that cannot be known.
func oomKills(cgroup string) int {
	if cgroup == "" {
		return 0
	}
	for _, name := range []string{"memory.events", "memory.oom_control"} {
		f, err := os.Open(filepath.Join(cgroup, name))
		if err != nil {
			continue
		}
		defer f.Close()
		for sc := bufio.NewScanner(f); sc.Scan(); {
			if v, ok := strings.CutPrefix(sc.Text(), "oom_kill "); ok {
				n, _ := strconv.Atoi(v)
				return n
			}
		}
	}
	return 0
}

// reapStrays collects the children nobody asked about: what Runtime commands
// and kept processes leave behind. While a start is in flight nothing is
// collected, as the process being started may already have ended; its pid must
// stay its own until it is known.
func (s *Server) reapStrays() {
	for range s.chld {
		for s.reapStray() {
		}
	}
}

// reapStray reaps one ended child and reports whether there may be more.
func (s *Server) reapStray() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.starting > 0 {
		return false
	}
	pid, err := endedChild()
	if err != nil || pid == 0 {
		return false
	}
	for _, p := range s.procs {
		if p.owns(pid) {
			_, ended := p.reap()
			return ended
		}
	}
	var ws unix.WaitStatus
	_, err = wait4(pid, &ws)
	return err == nil
}
