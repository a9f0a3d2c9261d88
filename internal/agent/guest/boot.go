// Package guest is the inside of berth-agent: it makes a machine out of a
// kernel and an image's layers, runs the entrypoint, and serves the host.
//
//	kernel ─▶ /init ─▶ modules, disks ─▶ (a template sleeps here) ─▶ configuration (first partition)
//	                              │
//	   layers (EROFS) + disk (ext4) ─▶ overlay ─▶ switch root ─▶ network
//	                              │
//	                 entrypoint ◀─┴─▶ control port (package agent)
//	                     │
//	                     └─▶ exit port ─▶ unmount ─▶ power off
//
// Every step is on the way from the power button to the user's first
// instruction, so none waits for a clock, and what the entrypoint does not
// need (random number device, balloon) is loaded after it has started.
//
// Everything here runs in the guest. Nothing in it protects the host: the host
// side of package agent does that.
package guest

import (
	"errors"
	"os"
	"runtime"
	"runtime/debug"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/agent"
)

// Main runs the machine and powers it off. It never returns.
func Main() {
	debug.SetGCPercent(-1) // until the entrypoint runs
	if os.Getenv(agent.DiskArg) != "" {
		startDisk()
	}
	exit := run()
	report(exit)
	powerOff()
}

// run boots the machine, runs the entrypoint, and says how it ended.
func run() agent.Exit {
	m, err := boot()
	if err != nil {
		return fault(err)
	}
	exit := m.run()
	m.rest()
	return exit
}

// fault is the exit of a machine that could not run its entrypoint.
func fault(err error) agent.Exit {
	return agent.Exit{Code: agent.CodeFault, Error: err.Error()}
}

// boot makes the root filesystem, the devices and the network.
func boot() (*machine, error) {
	if err := mountAll(slices.Concat(early, expected)); err != nil {
		return nil, err
	}
	modules, err := openModules()
	if err != nil {
		return nil, err
	}
	if devices, err := os.ReadDir("/sys/bus/pci/devices"); err == nil && len(devices) > 0 {
		if err := modules.load(setPCI); err != nil {
			return nil, err
		}
	}
	if err := modules.load(setBoot); err != nil {
		return nil, err
	}
	if err := openNetwork(); err != nil {
		return nil, err
	}
	template := os.Getenv(agent.TemplateArg) != ""
	disks, err := findDisks(!template)
	if err != nil {
		return nil, err
	}
	if template {
		if err := modules.hold(); err != nil {
			return nil, err
		}
		runtime.GC() // what a copy allocates has room then in what the boot has left over
		if err := sleep(); err != nil {
			return nil, err
		}
		if err := addPartitions(disks.layers); err != nil {
			return nil, err
		}
	}
	config, err := readConfig(disks.layers)
	if err != nil {
		return nil, err
	}
	if err := modules.loadFor(config); err != nil {
		return nil, err
	}
	disk, trees, err := mountRoot(config, disks)
	if err != nil {
		return nil, err
	}
	m := newMachine(config, modules, disk)
	if err := m.renewOnce(); err != nil {
		return nil, err
	}
	return m, furnish(config, trees)
}

// furnish makes of a root filesystem the machine that the configuration describes.
func furnish(config *agent.Config, trees trees) error {
	if err := setHostname(config.Hostname); err != nil {
		return err
	}
	if err := writeEtc(config); err != nil {
		return err
	}
	if err := mountShares(config.Mounts, trees); err != nil {
		return err
	}
	if config.ReadOnly {
		if err := mount("overlay", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return err
		}
	}
	return configureNetwork(config.Interfaces)
}

func setHostname(name string) error {
	if name == "" {
		return nil
	}
	return os.NewSyscallError("sethostname", unix.Sethostname([]byte(name)))
}

// writeEtc writes the files that name the machine and its neighbors. An image
// may have any of them as a symbolic link to something a service would make:
// then the link is replaced.
func writeEtc(config *agent.Config) error {
	if err := os.MkdirAll("/etc", 0o755); err != nil {
		return err
	}
	if config.Step {
		return errors.Join(
			placeText("/etc/hostname", config.Hostname+"\n"),
			placeText("/etc/hosts", config.Hosts),
			placeText("/etc/resolv.conf", config.ResolvConf),
		)
	}
	return errors.Join(
		writeFile("/etc/hostname", config.Hostname+"\n"),
		writeFile("/etc/hosts", config.Hosts),
		writeFile("/etc/resolv.conf", config.ResolvConf),
	)
}

func writeFile(path, content string) error {
	if content == "" || content == "\n" {
		return nil
	}
	err := os.WriteFile(path, []byte(content), 0o644)
	if errors.Is(err, os.ErrNotExist) {
		err = os.Remove(path)
		if err == nil {
			err = os.WriteFile(path, []byte(content), 0o644)
		}
	}
	return err
}
