package engine

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// process merges what the image says of its entrypoint with what the user
// wants, by the rules of the OCI image specification's config and of docker:
// a new entrypoint drops the image's command too. A system container's is the
// image's init instead.
func process(s api.Spec, c api.ImageConfig, id string) (instance.Process, error) {
	entrypoint, command := commandLine(s, c)
	p := instance.Process{
		Args:       slices.Concat(entrypoint, command),
		Env:        mergeEnv(s, c, id),
		User:       first(s.User, c.User),
		WorkingDir: first(s.WorkingDir, c.WorkingDir, "/"),
		TTY:        s.TTY,
		OpenStdin:  s.OpenStdin,
		StdinOnce:  s.StdinOnce,
	}
	if s.Init == api.InitSystem {
		bootInit(&p, s)
	}
	var err error
	p.StopSignal, err = parseSignal(first(s.StopSignal, c.StopSignal, "SIGTERM"))
	if err == nil && len(p.Args) == 0 {
		err = errors.New("no command was given and the image has none; name one after the image")
	}
	return p, err
}

// commandLine returns the entrypoint and the command of an instance.
func commandLine(s api.Spec, c api.ImageConfig) (entrypoint, command []string) {
	entrypoint, command = c.Entrypoint, c.Command
	if len(s.Entrypoint) > 0 {
		entrypoint, command = s.Entrypoint, nil
		if len(entrypoint) == 1 && entrypoint[0] == "" {
			entrypoint = nil
		}
	}
	if len(s.Command) > 0 {
		command = s.Command
	}
	return entrypoint, command
}

// mergeEnv lays the specification's variables over the image's. A TERM is set
// with a terminal, HOSTNAME always, HOME is the runtime's to find.
func mergeEnv(s api.Spec, c api.ImageConfig, id string) []string {
	env := append([]string{defaultPath, "HOSTNAME=" + s.Hostname}, initEnv(s, id)...)
	if s.TTY {
		env = append(env, "TERM=xterm")
	}
	return setVariables(env, slices.Concat(c.Env, s.Env))
}

// setVariables adds variables NAME=VALUE to an environment, each in the place of one of
// its name.
func setVariables(env, variables []string) []string {
	for _, v := range variables {
		name, _, _ := strings.Cut(v, "=")
		i := slices.IndexFunc(env, func(have string) bool { return strings.HasPrefix(have, name+"=") })
		if i < 0 {
			env = append(env, v)
		} else {
			env[i] = v
		}
	}
	return env
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// signals are those of signal(7) that users send by name.
var signals = map[string]syscall.Signal{
	"ABRT": syscall.SIGABRT, "ALRM": syscall.SIGALRM, "BUS": syscall.SIGBUS, "CHLD": syscall.SIGCHLD,
	"CONT": syscall.SIGCONT, "FPE": syscall.SIGFPE, "HUP": syscall.SIGHUP, "ILL": syscall.SIGILL,
	"INT": syscall.SIGINT, "IO": syscall.SIGIO, "KILL": syscall.SIGKILL, "PIPE": syscall.SIGPIPE,
	"PROF": syscall.SIGPROF, "PWR": syscall.SIGPWR, "QUIT": syscall.SIGQUIT, "SEGV": syscall.SIGSEGV,
	"STOP": syscall.SIGSTOP, "SYS": syscall.SIGSYS, "TERM": syscall.SIGTERM, "TRAP": syscall.SIGTRAP,
	"TSTP": syscall.SIGTSTP, "TTIN": syscall.SIGTTIN, "TTOU": syscall.SIGTTOU, "URG": syscall.SIGURG,
	"USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2, "VTALRM": syscall.SIGVTALRM, "WINCH": syscall.SIGWINCH,
	"XCPU": syscall.SIGXCPU, "XFSZ": syscall.SIGXFSZ,
}

const maxSignal = 64

// parseSignal reads a signal by name, with or without SIG, by number, or
// relative to the real-time range as in RTMIN+3.
func parseSignal(s string) (int, error) {
	if n, err := strconv.Atoi(s); err == nil && n > 0 && n <= maxSignal {
		return n, nil
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if sig, ok := signals[name]; ok {
		return int(sig), nil
	}
	const rtmin, rtmax = 34, 64 // as the C library numbers them for programs
	if offset, ok := strings.CutPrefix(name, "RTMIN"); ok {
		if n, err := strconv.Atoi("0" + strings.TrimPrefix(offset, "+")); err == nil && rtmin+n <= rtmax {
			return rtmin + n, nil
		}
	}
	return 0, api.E("", api.Invalid, "signal "+s, errors.New("no such signal; use a name as in TERM or a number from 1 to 64"))
}
