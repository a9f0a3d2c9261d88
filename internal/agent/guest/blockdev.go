package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/berthcloud/berth/internal/agent"
)

var errNoDisk = errors.New("the host gave this machine no such disk")

// findDisk returns the device of the disk that the host gave this serial
// number, once its partitions are there. The kernel's own names follow the order
// of the bus, which differs between machine types.
func findDisk(serial string, partitions int) (device string, err error) {
	err = awaitDevice(func() error {
		device, err = tryDisk(serial)
		if err != nil || partitions == 0 {
			return err
		}
		if _, err := os.Stat(device + strconv.Itoa(partitions)); err != nil {
			return errNoDisk
		}
		return nil
	}, errNoDisk)
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, serial)
	}
	return device, nil
}

func tryDisk(serial string) (string, error) {
	entries, err := os.ReadDir("/sys/block")
	if err != nil {
		return "", err
	}
	for _, entry := range entries {
		if serialOf(filepath.Join("/sys/block", entry.Name())) == serial {
			return "/dev/" + entry.Name(), nil
		}
	}
	return "", errNoDisk
}

// serialOf returns the serial number of a virtio disk, or of an ATA disk from
// the page of vital product data that the kernel makes of it: four bytes of
// header, then the number.
func serialOf(dir string) string {
	text, err := os.ReadFile(filepath.Join(dir, "serial"))
	if err != nil {
		if text, err = os.ReadFile(filepath.Join(dir, "device", "vpd_pg80")); err != nil || len(text) < 4 {
			return ""
		}
		text = text[4:]
	}
	return strings.Trim(string(text), " \n\x00")
}

// readConfig reads the first partition of the read-only disk.
func readConfig(layers string) (*agent.Config, error) {
	file, err := os.Open(layers + "1")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return decodeConfig(file)
}

// decodeConfig reads a configuration from the beginning of a file.
func decodeConfig(file *os.File) (*agent.Config, error) {
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
