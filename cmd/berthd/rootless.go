package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/berthcloud/berth/internal/daemon"
)

// userPlaces returns where an ordinary user's daemon is, by the XDG base directory
// specification.
func userPlaces() (root, run, hosts string) {
	data, runtime := os.Getenv("XDG_DATA_HOME"), os.Getenv("XDG_RUNTIME_DIR")
	if data == "" {
		data = filepath.Join(os.Getenv("HOME"), ".local/share")
	}
	if runtime == "" {
		runtime = "/run/user/" + strconv.Itoa(os.Getuid())
	}
	return filepath.Join(data, "berth"), filepath.Join(runtime, "berth"), filepath.Join(userConfig(), "berth/certs.d")
}

// userConfig is the directory of an ordinary user's configuration.
func userConfig() string {
	if config := os.Getenv("XDG_CONFIG_HOME"); config != "" {
		return config
	}
	return filepath.Join(os.Getenv("HOME"), ".config")
}

// policyFile returns the policy of an ordinary user's daemon where he has one, else that
// of the host.
func policyFile(ordinary bool) string {
	const name = "berth/policy.json"
	if own := filepath.Join(userConfig(), name); ordinary {
		if _, err := os.Stat(own); err == nil {
			return own
		}
	}
	return filepath.Join("/etc", name)
}

// launch becomes the program that runs this one again as root of the user's own
// namespaces. It returns where that cannot be.
func launch(c daemon.Config, level, format string) int {
	if err := c.Complete(); err != nil {
		return fail(err)
	}
	helper := filepath.Join(c.Bin, "berth-rootless")
	err := syscall.Exec(helper, []string{
		"berth-rootless", "launch", c.Run, filepath.Join(c.Bin, "berthd"), c.Cgroup,
		"--root", c.Root, "--run", c.Run, "--socket", c.Socket, "--bin", c.Bin, "--log-level", level, "--log-format", format,
		"--vm-templates", strconv.Itoa(c.Templates), "--policy", c.Policy, "--hosts", c.Hosts,
	}, os.Environ())
	return fail(fmt.Errorf("without root: %s: %w", helper, err))
}
