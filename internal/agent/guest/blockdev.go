package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/berthcloud/berth/internal/agent"
)

// findDisk returns the device of the disk that the host gave this serial
// number. The kernel's own names follow the order of the bus, which differs
// between machine types.
func findDisk(serial string) (string, error) {
	entries, err := os.ReadDir("/sys/block")
	if err != nil {
		return "", err
	}
	for _, entry := range entries {
		got, err := os.ReadFile(filepath.Join("/sys/block", entry.Name(), "serial"))
		if err == nil && strings.TrimSpace(string(got)) == serial {
			return "/dev/" + entry.Name(), nil
		}
	}
	return "", fmt.Errorf("the host gave this machine no disk %s", serial)
}

// readConfig reads the first partition of the read-only disk.
func readConfig(layers string) (*agent.Config, error) {
	file, err := os.Open(layers + "1")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data := make([]byte, agent.MaxConfig)
	n := 0
	for n < len(data) {
		k, err := file.Read(data[n:])
		if k == 0 || err != nil {
			break
		}
		n += k
	}
	return agent.DecodeConfig(data[:n])
}
