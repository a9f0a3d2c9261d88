package disk

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// ModuleSet are kernel modules that the agent loads at one time. A module in brackets
// may be missing from a kernel.
type ModuleSet struct {
	Name  string
	Names []string
}

// MissingModuleError is the error of an initramfs that a kernel lacks a module for.
type MissingModuleError struct{ Name string }

func (e *MissingModuleError) Error() string { return "the kernel has no module " + e.Name }

// Initramfs is the file system that a guest starts from: the agent as /init, the
// modules as package agent/guest reads them, and the directories that it mounts on.
type Initramfs struct {
	Agent   string // path of the program
	Modules *Modules
	Sets    []ModuleSet
	Dirs    []string          // beyond dev, proc, sys and modules
	Files   map[string][]byte // by name
}

// Write writes it. It is not compressed: unpacking would cost a guest more than reading.
func (i Initramfs) Write(w io.Writer) error {
	agent, err := os.Open(i.Agent)
	if err != nil {
		return err
	}
	defer agent.Close()
	info, err := agent.Stat()
	if err != nil {
		return err
	}
	c := NewCpio(w)
	for _, dir := range append([]string{"dev", "proc", "sys", "modules"}, i.Dirs...) {
		c.Dir(dir, 0o755)
	}
	// The kernel opens it for process 1 before there is a devtmpfs.
	c.Char("dev/console", 0o600, 5, 1)
	c.File("init", 0o755, agent, info.Size())
	for _, name := range slices.Sorted(maps.Keys(i.Files)) {
		c.File(name, 0o644, bytes.NewReader(i.Files[name]), int64(len(i.Files[name])))
	}
	written := map[string]bool{}
	for _, set := range i.Sets {
		order, err := i.order(set)
		if err != nil {
			return err
		}
		var list bytes.Buffer
		for _, module := range order {
			fmt.Fprintln(&list, module.Name)
			if !written[module.Name] {
				written[module.Name] = true
				c.File("modules/"+module.Name+".ko", 0o644, bytes.NewReader(module.Data), int64(len(module.Data)))
			}
		}
		c.File("modules/"+set.Name, 0o644, &list, int64(list.Len()))
	}
	return c.Close()
}

// order returns the modules of a set that the kernel has, in the order to load them.
func (i Initramfs) order(set ModuleSet) ([]Module, error) {
	var wanted []string
	for _, name := range set.Names {
		optional := strings.HasPrefix(name, "[")
		name = strings.Trim(name, "[]")
		switch {
		case i.Modules.Has(name):
			wanted = append(wanted, name)
		case !optional:
			return nil, &MissingModuleError{name}
		}
	}
	order, err := i.Modules.Order(wanted...)
	if err != nil {
		return nil, fmt.Errorf("guest kernel: %w", err)
	}
	return order, nil
}
