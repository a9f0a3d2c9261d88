package vm

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/berthcloud/berth/internal/disk"
)

// moduleSets are the kernel modules a guest may need, in the sets that
// agent/guest loads one by one. A module in brackets may be missing from a kernel.
var moduleSets = []struct {
	name  string
	names []string
}{
	{"pci", []string{"[virtio_pci]"}},
	{"boot", []string{"virtio_mmio", "virtio_blk", "virtio_console", "erofs", "overlay", "ext4"}},
	{"net", []string{"virtio_net"}},
	{"share", []string{"[virtiofs]"}},
	{"late", []string{"[virtio_rng]", "[virtio_balloon]"}},
}

// writeInitramfs writes the file system a guest starts from: the agent as
// /init, the modules, and the directories the agent mounts on. It is not
// compressed: unpacking would cost the guest more than reading.
func writeInitramfs(w io.Writer, agentPath string, modules *disk.Modules) error {
	agent, err := os.Open(agentPath)
	if err != nil {
		return err
	}
	defer agent.Close()
	info, err := agent.Stat()
	if err != nil {
		return err
	}
	c := disk.NewCpio(w)
	for _, dir := range []string{"dev", "proc", "sys", "l", "disk", "root", "modules"} {
		c.Dir(dir, 0o755)
	}
	// The kernel opens it for process 1 before there is a devtmpfs.
	c.Char("dev/console", 0o600, 5, 1)
	c.File("init", 0o755, agent, info.Size())
	written := map[string]bool{}
	for _, set := range moduleSets {
		var wanted []string
		for _, name := range set.names {
			optional := strings.HasPrefix(name, "[")
			name = strings.Trim(name, "[]")
			if !optional || modules.Has(name) {
				wanted = append(wanted, name)
			}
		}
		order, err := modules.Order(wanted...)
		if err != nil {
			return fmt.Errorf("guest kernel: %w", err)
		}
		var list bytes.Buffer
		for _, module := range order {
			fmt.Fprintln(&list, module.Name)
			if !written[module.Name] {
				written[module.Name] = true
				c.File("modules/"+module.Name+".ko", 0o644, bytes.NewReader(module.Data), int64(len(module.Data)))
			}
		}
		c.File("modules/"+set.name, 0o644, &list, int64(list.Len()))
	}
	return c.Close()
}
