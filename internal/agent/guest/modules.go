package guest

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/agent"
)

// The sets of kernel modules that an initramfs holds. Each is a file
// modules/SET with the names of modules in load order; each module is a file
// modules/NAME.ko. Package instance/vm writes them.
const (
	setPCI   = "pci"   // virtio on boards with PCI
	setBoot  = "boot"  // disks, file systems, ports
	setNet   = "net"   // network interfaces
	setShare = "share" // virtiofs
	setLate  = "late"  // what can wait until the entrypoint runs
)

// kernelModules loads modules from the initramfs, also after the root was
// switched and no path leads there any more.
type kernelModules struct{ dir *os.Root }

// load loads a set of modules and frees their files' memory.
func (k kernelModules) load(set string) error {
	list, err := k.dir.ReadFile(set)
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(list)) {
		data, err := k.dir.ReadFile(name + ".ko")
		if errors.Is(err, os.ErrNotExist) {
			continue // another set had it
		}
		if err != nil {
			return err
		}
		if err := unix.InitModule(data, ""); err != nil && err != unix.EEXIST {
			return fmt.Errorf("kernel module %s: %w", name, err)
		}
		if err := k.dir.Remove(name + ".ko"); err != nil {
			return err
		}
	}
	return nil
}

// loadFor loads the sets that the configuration calls for.
func (k kernelModules) loadFor(config *agent.Config) error {
	if len(config.Interfaces) > 0 {
		if err := k.load(setNet); err != nil {
			return err
		}
	}
	for _, m := range config.Mounts {
		if m.Tag != "" {
			return k.load(setShare)
		}
	}
	return nil
}
