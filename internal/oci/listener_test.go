package oci_test

import (
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// refuseMkdir is an agent's answer that no kernel would give.
func refuseMkdir() map[int32]response {
	const mkdir = 83 // on amd64; other architectures do without
	answer := response{errno: -int32(unix.EXDEV)}
	return map[int32]response{unix.SYS_MKDIRAT: answer, mkdir: answer}
}

// notifyProfile hands some calls to an agent, among them those by which other
// runtimes talk to the agent or execute the workload.
func notifyProfile(path string) *specs.LinuxSeccomp {
	return &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, ListenerPath: path, ListenerMetadata: "who=test",
		Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv},
		Syscalls: []specs.LinuxSyscall{{
			Names:  []string{"mkdir", "mkdirat", "execve", "write", "read", "sendmsg", "recvmsg", "sendto", "rt_sigreturn", "futex", "setgroups"},
			Action: specs.ActNotify,
		}},
	}
}

// TestSeccompNotify lets an agent answer system calls of a container's first process
// and of a command in it (config-linux.md, listenerPath).
func TestSeccompNotify(t *testing.T) {
	for _, c := range []struct {
		name                string
		noNewPrivs, ns, all bool
	}{
		{"filter last", true, false, false},
		{"filter before the capabilities go", false, false, false},
		{"user namespace", true, true, false},
		{"user namespace, early", false, true, false},
		{"every call", false, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBox(t, "mkdir /tmp/x; echo over; sleep 100")
			b.spec.Process.NoNewPrivileges = c.noNewPrivs
			if c.ns {
				b.userNamespace()
			}
			a := newAgent(t, t.TempDir(), refuseMkdir())
			b.spec.Linux.Seccomp = notifyProfile(a.path)
			if c.all {
				b.spec.Linux.Seccomp.DefaultAction = specs.ActNotify
			}
			b.start()
			want := "can't create directory '/tmp/x': Invalid cross-device link\nover\n"
			eventually(t, "the agent's answer", func() bool { return strings.Contains(b.output(), want) })
			states, execve := a.seen(unix.SYS_EXECVE)
			if len(states) != 1 || !execve {
				t.Fatalf("the agent has %d states and knows of execve: %v", len(states), execve)
			}
			s := states[0]
			if s.Version != specs.Version || len(s.Fds) != 1 || s.Fds[0] != "seccompFd" || s.Metadata != "who=test" || s.Pid == 0 ||
				s.State.ID != b.id || s.State.Status != specs.StateCreated || s.State.Pid != s.Pid || s.State.Bundle != b.bundle {
				t.Errorf("state %+v", s)
			}
			// The command has a filter and a listener of its own.
			if out := b.oci("exec", b.id, "mkdir", "/tmp/y"); !strings.Contains(out.stderr, "Invalid cross-device link") {
				t.Errorf("exec: %+v", out)
			}
			if states, _ := a.seen(0); len(states) != 2 || states[1].Pid == s.Pid || states[1].State.Pid != s.Pid || states[1].State.Status != specs.StateRunning {
				t.Errorf("states %+v", states)
			}
			b.oci("delete", "--force", b.id)
			a.close()
			b.nothing()
		})
	}
}

// TestUserSeccompNotify does so as an ordinary user.
func TestUserSeccompNotify(t *testing.T) {
	b := newUserBox(t, "mkdir /tmp/x; echo over")
	a := newAgent(t, b.user.Home, refuseMkdir())
	b.spec.Linux.Seccomp = notifyProfile(a.path)
	out := b.run()
	if states, _ := a.seen(0); !strings.Contains(out.stderr, "Invalid cross-device link") || out.stdout != "over\n" || len(states) != 1 {
		t.Errorf("%+v, %d states", out, len(states))
	}
	a.close()
}

// output is what a started container has written.
func (b *box) output() string {
	raw, err := os.ReadFile(b.log())
	must(b.t, err)
	return string(raw)
}

// TestSeccompNotifyWithoutAgent wants one line, and no process that waits for ever.
func TestSeccompNotifyWithoutAgent(t *testing.T) {
	for _, c := range []struct{ path, want string }{
		{"/nonexistent", "linux.seccomp.listenerPath: /nonexistent: no agent answers there: no such file or directory"},
		{"agent.sock", `linux.seccomp.listenerPath: "agent.sock": must be an absolute path`},
		{"", "linux.seccomp: listenerPath: missing"},
	} {
		b := newBox(t, "echo ran")
		b.spec.Linux.Seccomp = notifyProfile(c.path)
		if c.path == "" {
			b.spec.Linux.Seccomp.ListenerMetadata = ""
		}
		if out := b.run(); out.code != 1 || !strings.Contains(out.stderr, c.want) || strings.Contains(out.stdout, "ran") {
			t.Errorf("%s: %+v", c.path, out)
		}
		b.nothing()
	}
	b := newBox(t, "echo ran; sleep 100")
	b.spec.Linux.Seccomp = notifyProfile("/nonexistent")
	b.write()
	if out := b.oci("create", "--bundle", b.bundle, b.id); out.code != 0 {
		t.Fatalf("create: %+v", out)
	}
	if out := b.oci("start", b.id); out.code != 1 || strings.Count(out.stderr, "\n") != 1 || !strings.Contains(out.stderr, "/nonexistent") {
		t.Errorf("start: %+v", out)
	}
	eventually(t, "the end of a container without agent", func() bool { return b.status() == "stopped" })
	b.oci("delete", b.id)
	b.nothing()
}
