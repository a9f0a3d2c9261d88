package attack

import (
	"strconv"
	"strings"
)

// rightsAttacks use what the daemon, its keeper or a waiting runtime may have
// handed on, and what a command beside the entrypoint may have been spared.
func rightsAttacks() []engineAttack {
	return []engineAttack{
		{"descriptors of the daemon", "CVE-2016-9962, CVE-2024-21626", daemonDescriptors},
		{"the daemon's environment", "", daemonEnvironment},
		{"confinement of a command", "CVE-2022-29162", commandConfined},
		{"commands beyond the limits", "", commandsBeyondLimits},
	}
}

// variants are a run, a command, and both with the streams that are made for them.
func (e *engine) variants(args ...string) map[string]string {
	said := map[string]string{}
	for _, flags := range []string{"", "-i", "-t"} {
		run := append(append([]string{"run", "--rm", "--network", "none"}, strings.Fields(flags)...), "base")
		said["run "+flags] = e.Try(e.t.Context(), append(run, args...)...).Stdout
		exec := append(append([]string{"exec"}, strings.Fields(flags)...), "neighbor")
		said["exec "+flags] = e.Try(e.t.Context(), append(exec, args...)...).Stdout
	}
	return said
}

func daemonDescriptors(e *engine) verdict {
	for what, said := range e.variants("sh", "-c", `for f in /proc/self/fd/*; do echo fd ${f##*/} $(readlink $f); done`) {
		if !strings.Contains(said, "fd 2 ") {
			return fall("%s: no list of descriptors: %q", what, said)
		}
		for line := range strings.Lines(said) {
			f := strings.Fields(line)
			if len(f) < 3 || strings.HasPrefix(f[2], "/proc/") {
				continue // closed by now: what the shell read the list with
			}
			if n, err := strconv.Atoi(f[1]); err != nil || n > 2 {
				return fall("%s has descriptor %s", what, line)
			}
		}
	}
	return held()
}

func daemonEnvironment(e *engine) verdict {
	for what, said := range e.variants("cat", "/proc/self/environ", "/proc/1/environ") {
		for variable := range strings.SplitSeq(said, "\x00") {
			name, _, _ := strings.Cut(variable, "=")
			if strings.HasPrefix(name, "BERTH") || strings.HasPrefix(name, "GO") || name == "LISTEN_FDS" || name == "NOTIFY_SOCKET" {
				return fall("%s sees %s", what, variable)
			}
		}
	}
	return held()
}

// commandConfined compares a command with the entrypoint it runs beside.
func commandConfined(e *engine) verdict {
	look := func(pid string) string {
		return e.Berth(e.t, "exec", "neighbor", "sh", "-c", "grep -E '^(Cap|NoNewPrivs|Seccomp|Groups|Uid|Gid)' /proc/"+pid+"/status; cat /proc/"+pid+"/cgroup /proc/"+pid+"/oom_score_adj; for n in /proc/"+pid+"/ns/* /proc/"+pid+"/root; do readlink $n; done")
	}
	if command, first := look("self"), look("1"); command != first {
		return fall("a command is confined by %q, the entrypoint by %q", command, first)
	}
	return held()
}

func commandsBeyondLimits(e *engine) verdict {
	defer e.attacker("exec sleep 600", "-m", "32m", "--pids-limit", "20")()
	if r := e.Try(e.t.Context(), "exec", "attacker", "tail", "/dev/zero"); r.Exit != 137 {
		return fall("a command took more memory than its container may: %s", r)
	}
	if r := e.Try(e.t.Context(), "exec", "attacker", "sh", "-c", "for i in $(seq 30); do sleep 600 & done"); !strings.Contains(r.Stderr, "fork") {
		return fall("a command started 30 processes under a limit of 20: %s", r)
	}
	if n := strings.Count(e.Berth(e.t, "top", "attacker"), "\n"); n > 20 {
		return fall("%d processes under a limit of 20", n)
	}
	return held()
}
