package testenv

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// UserHost is a host of a systemd rack as one of its ordinary users has it. He has
// subordinate ids, and a systemd of his own that runs without his being logged in.
type UserHost struct {
	*Host
	ID   string // of the user and of his group
	Home string

	entrance string // file that his commands write their number to, or ""
}

// NewUserHost makes the user.
func NewUserHost(t testing.TB, h *Host) *UserHost {
	t.Helper()
	u := &UserHost{Host: h, ID: fmt.Sprint(userID), Home: "/data/home"}
	h.Shell(t, "groupadd --gid "+u.ID+" tester && useradd --uid "+u.ID+" --gid "+u.ID+" --create-home --home-dir "+u.Home+" tester && usermod --add-subuids 100000-165535 --add-subgids 100000-165535 tester && chmod 755 /data && loginctl enable-linger tester")
	Eventually(t, time.Minute, func() error {
		if r := h.Do(t.Context(), Command{Argv: []string{"test", "-S", u.Runtime() + "/systemd/private"}}); r.Exit != 0 {
			return fmt.Errorf("the user has no systemd yet: %s", r)
		}
		return nil
	})
	return u
}

// Enter is the same machine, where the user's commands are in a cgroup of v2.
func (u *UserHost) Enter(cgroup string) *UserHost {
	v := *u
	v.entrance = "/sys/fs/cgroup" + cgroup + "/cgroup.procs"
	return &v
}

// Do implements Machine. The command is in no cgroup of the user's, as in a login
// session.
func (u *UserHost) Do(ctx context.Context, c Command) Result {
	script := "exec setpriv --reuid " + u.ID + " --regid " + u.ID + " --clear-groups --inh-caps -all " +
		strings.Join([]string{"env", "-i", "-C", u.Home, "PATH=$PATH", "HOME=" + u.Home, "XDG_RUNTIME_DIR=" + u.Runtime(), "USER=tester"}, " ") + ` "$@"`
	if u.entrance != "" {
		script = "echo $$ >" + u.entrance + "\n" + script
	}
	c.Argv = append([]string{"sh", "-c", script, "sh"}, c.Argv...)
	return u.Host.Do(ctx, c)
}

// Temp implements Machine.
func (u *UserHost) Temp() string { return u.Home }

// Runtime implements Machine.
func (u *UserHost) Runtime() string { return "/run/user/" + u.ID }
