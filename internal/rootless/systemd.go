package rootless

import (
	"context"
	"crypto/rand"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// userManager connects to the user's own systemd, as systemctl --user does: by the
// socket that it has for that, so that no bus needs to run.
func userManager(ctx context.Context) (*dbus.Conn, error) {
	run := os.Getenv("XDG_RUNTIME_DIR")
	if run == "" {
		run = "/run/user/" + strconv.Itoa(os.Getuid())
	}
	return dbus.NewConnection(func() (*godbus.Conn, error) {
		conn, err := godbus.Dial("unix:path="+filepath.Join(run, "systemd/private"), godbus.WithContext(ctx))
		if err != nil {
			return nil, err
		}
		if err := conn.Auth([]godbus.Auth{godbus.AuthExternal(strconv.Itoa(os.Getuid()))}); err != nil {
			conn.Close()
			return nil, err
		}
		return conn, nil
	})
}

// newScope has the user's systemd make a scope with this process in it and everything
// below it ours, and returns its cgroup. The scope is there as long as a process is.
func newScope(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := userManager(ctx)
	if err != nil {
		return "", fmt.Errorf("berthd was not started in a cgroup that is the user's alone, and he has no systemd to ask for one (%w); docs/rootless.md says how to delegate one", err)
	}
	defer conn.Close()
	done := make(chan string, 1)
	_, err = conn.StartTransientUnitContext(ctx, "berthd-"+strings.ToLower(rand.Text()[:10])+".scope", "fail", []dbus.Property{
		dbus.PropDescription("Berth, containers of this user"),
		dbus.PropPids(uint32(os.Getpid())),
		{Name: "Delegate", Value: godbus.MakeVariant(true)},
		{Name: "TasksMax", Value: godbus.MakeVariant(uint64(math.MaxUint64))}, // each instance has a limit of its own
		{Name: "CollectMode", Value: godbus.MakeVariant("inactive-or-failed")},
	}, done)
	if err != nil {
		return "", fmt.Errorf("the user's systemd refuses a scope: %w", err)
	}
	select {
	case result := <-done:
		if result != "done" {
			return "", fmt.Errorf("the user's systemd made no scope: its job has %s", result)
		}
	case <-ctx.Done():
		return "", fmt.Errorf("the user's systemd made no scope: %w", ctx.Err())
	}
	own, err := ownCgroups()
	return own[""], err
}

// attach has the user's systemd move this process to the leaf of a unit that it has
// delegated.
func attach(ctx context.Context, unit string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := userManager(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.AttachProcessesToUnit(ctx, unit, "/"+cgroupLeaf, []uint32{uint32(os.Getpid())})
}
