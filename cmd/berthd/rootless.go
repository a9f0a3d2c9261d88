package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/berthcloud/berth/internal/daemon"
	"github.com/berthcloud/berth/internal/rootless"
)

// userPlaces returns where an ordinary user's daemon is, by the XDG base directory
// specification.
func userPlaces() (root, run string) {
	data, runtime := os.Getenv("XDG_DATA_HOME"), os.Getenv("XDG_RUNTIME_DIR")
	if data == "" {
		data = filepath.Join(os.Getenv("HOME"), ".local/share")
	}
	if runtime == "" {
		runtime = "/run/user/" + strconv.Itoa(os.Getuid())
	}
	return filepath.Join(data, "berth"), filepath.Join(runtime, "berth")
}

// launch has this program run again as root of the user's own namespaces, and returns
// its exit status.
func launch(c daemon.Config, level, format string) int {
	if err := c.Complete(); err != nil {
		return fail(err)
	}
	l := rootless.Launcher{Run: c.Run, Helper: filepath.Join(c.Bin, "berth-rootless"), Keeper: filepath.Join(c.Run, "keeper.sock")}
	status, err := l.Launch(context.Background(), []string{
		"--root", c.Root, "--run", c.Run, "--socket", c.Socket, "--bin", c.Bin, "--log-level", level, "--log-format", format,
	})
	if err != nil {
		return fail(fmt.Errorf("without root: %w", err))
	}
	return status
}
