package guest

import (
	"errors"
	"fmt"
	"os"
	"slices"
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
// switched and no path leads there any more. It makes plain system calls: most of
// package os would run for the first time here, and an emulated processor
// has to translate what it runs.
type kernelModules struct {
	dir    int // descriptor of /modules
	loaded []string

	// held are devices by the set of their driver, left alone until that is loaded (hold).
	held map[string][]string
}

// deviceSets says which set's drivers a virtio device waits for, by its type as sysfs
// has it (virtio 1.1, chapter 5).
var deviceSets = map[string]string{"0x0001": setNet, "0x0004": setLate, "0x0005": setLate}

const virtioBus = "/sys/bus/virtio/"

// hold loads the drivers of devices that differ between the copies of a template, but
// keeps them from the devices until load is called for their sets. A driver's code
// takes long to load; what a device is like it finds out when it gets the device: the
// interface of a copy can do more than the template's, to which nothing is connected.
func (k *kernelModules) hold() error {
	if err := os.WriteFile(virtioBus+"drivers_autoprobe", []byte("0"), 0); err != nil {
		return err
	}
	for _, set := range []string{setNet, setLate} {
		if err := k.load(set); err != nil {
			return err
		}
	}
	devices, err := os.ReadDir(virtioBus + "devices")
	if err != nil {
		return err
	}
	k.held = map[string][]string{}
	for _, device := range devices {
		kind, err := os.ReadFile(virtioBus + "devices/" + device.Name() + "/device")
		if err != nil {
			return err
		}
		if set := deviceSets[strings.TrimSpace(string(kind))]; set != "" {
			k.held[set] = append(k.held[set], device.Name())
		}
	}
	return nil
}

// release gives the devices of a set to their drivers.
func (k *kernelModules) release(set string) error {
	const path = virtioBus + "drivers_probe"
	for _, device := range k.held[set] {
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("open "+path, err)
		}
		_, err = unix.Write(fd, []byte(device))
		unix.Close(fd)
		if err != nil {
			return os.NewSyscallError("have "+device+" probed", err)
		}
	}
	delete(k.held, set)
	return nil
}

func openModules() (*kernelModules, error) {
	dir, err := unix.Open("/modules", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return &kernelModules{dir: dir}, os.NewSyscallError("open /modules", err)
}

// load loads a set of modules.
func (k *kernelModules) load(set string) error {
	list, err := k.read(set)
	if err != nil {
		return err
	}
	if err := k.loadNamed(list); err != nil {
		return err
	}
	return k.release(set)
}

// loadNamed loads the modules of a list that are not loaded yet.
func (k *kernelModules) loadNamed(list string) error {
	for name := range strings.FieldsSeq(list) {
		if slices.Contains(k.loaded, name) {
			continue // another set had it
		}
		fd, err := k.open(name + ".ko")
		if err != nil {
			return err
		}
		err = unix.FinitModule(fd, "", 0)
		unix.Close(fd)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("kernel module %s: %w", name, err)
		}
		k.loaded = append(k.loaded, name)
	}
	return nil
}

// free frees the memory that the files of the loaded modules take.
func (k *kernelModules) free() {
	for _, name := range k.loaded {
		_ = unix.Unlinkat(k.dir, name+".ko", 0)
	}
}

func (k *kernelModules) open(name string) (int, error) {
	fd, err := unix.Openat(k.dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	return fd, os.NewSyscallError("open /modules/"+name, err)
}

// read returns the content of a small file.
func (k *kernelModules) read(name string) (string, error) {
	fd, err := k.open(name)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var content []byte
	buffer := make([]byte, 4096)
	for {
		n, err := unix.Read(fd, buffer)
		if n <= 0 {
			return string(content), os.NewSyscallError("read /modules/"+name, err)
		}
		content = append(content, buffer[:n]...)
	}
}

// loadFor loads the sets that the configuration calls for.
func (k *kernelModules) loadFor(config *agent.Config) error {
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
