package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/agent"
)

var errNoDisk = errors.New("the host gave this machine no such disk")

// disks are the devices of a machine made of layers.
type disks struct {
	layers   string
	writable string // "" where it was not there yet
}

// findDisks returns the machine's disks. A template's have no content yet.
func findDisks(content bool) (d disks, err error) {
	partitions := 0
	if content {
		partitions = 1
	}
	if d.layers, err = findDisk(agent.LayersSerial, partitions); err != nil {
		return d, err
	}
	d.writable, err = tryDisk(agent.DiskSerial)
	if errors.Is(err, errNoDisk) {
		err = nil // a machine may have none
	}
	return d, err
}

// addPartitions tells the kernel of the partitions of a disk that had none when it was
// found, as Berth's own table (disk.Join) has them: without a gap, of 128 bytes each.
// The kernel's way to look for them itself (BLKRRPART) is 2,000 blocks of code, and reads
// what no table of Berth's needs.
func addPartitions(device string) error {
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open "+device, err)
	}
	defer unix.Close(fd)
	// As many entries as are on the first page, behind two sectors of head.
	entries := make([]byte, 4096-2*sectorSize)
	for number := 1; ; {
		at := 2*sectorSize + int64(number-1)*gptLeastEntry
		if _, err := unix.Pread(fd, entries, at); err != nil {
			return os.NewSyscallError("read the partitions of "+device, err)
		}
		for entry := range slices.Chunk(entries, gptLeastEntry) {
			first, last := binary.LittleEndian.Uint64(entry[32:]), binary.LittleEndian.Uint64(entry[40:])
			if first == 0 || number > gptEntries {
				return nil
			}
			if err := addPartition(fd, number, int64(first)*sectorSize, int64(last+1-first)*sectorSize); err != nil {
				return err
			}
			number++
		}
	}
}

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

// decodeConfig reads a configuration from the beginning of a file. Most are small:
// room for the largest would have the runtime's heap grow on the way to the entrypoint.
func decodeConfig(file *os.File) (*agent.Config, error) {
	data := make([]byte, 0, 4096)
	for {
		k, err := file.Read(data[len(data):cap(data)])
		if k == 0 || err != nil {
			break
		}
		if data = data[:len(data)+k]; len(data) >= agent.MaxConfig {
			break
		}
		data = slices.Grow(data, 1)
	}
	return agent.DecodeConfig(data[:min(len(data), agent.MaxConfig)])
}
