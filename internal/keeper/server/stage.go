package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/keeper"
)

// StageCommand is the argument with which berth-keeper starts itself to become
// a Direct process that wants cgroups or a user of its own: it enters them and
// then executes the process, so that not one instruction of it runs outside.
const StageCommand = "stage"

// stageFD is the descriptor on which the stage reports a failure.
const stageFD = 3

// stageSpec is the stage's work, as JSON in its arguments.
type stageSpec struct {
	Cgroups []string `json:"cgroups,omitempty"`
	UID     uint32   `json:"uid,omitempty"`
	GID     uint32   `json:"gid,omitempty"`
	Groups  []uint32 `json:"groups,omitempty"`
}

func needsStage(spec *keeper.Process) bool { return len(spec.Cgroups) > 0 || spec.UID != 0 }

// newStage prepares the stage's arguments and its report.
func newStage(spec *keeper.Process) (*stageReport, error) {
	work, err := json.Marshal(stageSpec{Cgroups: spec.Cgroups, UID: spec.UID, GID: spec.GID, Groups: spec.Groups})
	if err != nil {
		return nil, err
	}
	ours, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	args := append([]string{"/proc/self/exe", StageCommand, string(work)}, spec.Args...)
	return &stageReport{args: args, ours: ours, theirs: theirs}, nil
}

// Stage enters the cgroups and the user and executes the command. It returns
// only on failure, which it has reported to the keeper.
func Stage(args []string) int {
	if len(args) < 2 {
		fmt.Fprintln(os.Stderr, "berth-keeper stage: for berth-keeper's own use")
		return 2
	}
	unix.CloseOnExec(stageFD)
	what, err := stage(args[0], args[1:])
	var errno unix.Errno
	if !errors.As(err, &errno) {
		errno = unix.EINVAL
	}
	fmt.Fprintf(os.NewFile(stageFD, "report"), "%d %s", int(errno), what)
	return 1
}

func stage(work string, args []string) (what string, err error) {
	var spec stageSpec
	if err := json.Unmarshal([]byte(work), &spec); err != nil {
		return "read the stage's work", err
	}
	for _, cg := range spec.Cgroups {
		file := filepath.Join(cg, "cgroup.procs")
		if err := os.WriteFile(file, []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
			return "enter cgroup " + cg, err
		}
	}
	if spec.UID != 0 {
		groups := make([]int, len(spec.Groups))
		for i, g := range spec.Groups {
			groups[i] = int(g)
		}
		// Groups go first: without uid 0 they could not be changed any more.
		if err := errors.Join(syscall.Setgroups(groups), syscall.Setgid(int(spec.GID)), syscall.Setuid(int(spec.UID))); err != nil {
			return fmt.Sprintf("become user %d", spec.UID), err
		}
	}
	return "execute " + args[0], syscall.Exec(args[0], args, os.Environ())
}
