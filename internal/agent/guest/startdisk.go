package guest

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/agent"
)

// startDisk is process 1 of a machine that starts from a disk which Berth has made of an
// image (package agent, Disk). It never returns. Nothing of Berth's need be there: the
// disk starts on any machine.
func startDisk() {
	if err := fromDisk(); err != nil {
		fmt.Fprintln(os.Stderr, "berth-agent:", err)
	}
	unix.Sync()
	_ = unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, "") // so that the next boot finds nothing to repair
	// Off and not reset, which a machine takes for a reboot.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {} // process 1 must not end, or the kernel panics
}

// fromDisk mounts the root filesystem and starts what it is for. It returns when that
// has ended.
func fromDisk() error {
	if err := mountAll(early); err != nil {
		return err
	}
	data, err := os.ReadFile("/" + agent.DiskFile)
	if err != nil {
		return err
	}
	disk, err := agent.DecodeDisk(data)
	if err != nil {
		return err
	}
	modules, err := openModules()
	if err != nil {
		return err
	}
	if err := modules.load(agent.SetDisk); err != nil {
		return err
	}
	if err := mountDiskRoot(disk.Root); err != nil {
		return err
	}
	modules.free()
	m := newMachine(&agent.Config{Capabilities: ^uint64(0), NewPrivs: true}, modules, nil)
	host := false // Berth's, which has something to tell
	if _, err := tryDisk(agent.DiskSerial); err == nil {
		if config, err := readSeed(); err == nil {
			m.config, host = config, true
		}
	}
	if host {
		m.tell()
	} else if err := openNetwork(); err != nil {
		return err
	}
	if disk.Init != "" {
		return becomeInit(disk.Init, host)
	}
	if err := mountAll(expected); err != nil {
		return err
	}
	return m.runFromDisk(disk, host)
}

// mountDiskRoot makes the filesystem with a UUID the root, as large as its disk has room
// for.
func mountDiskRoot(uuid string) error {
	const dir = "/root"
	var device string
	err := awaitDevice(func() (err error) {
		device, err = filesystemOf(uuid)
		return err
	}, errNoDisk)
	if err != nil {
		return fmt.Errorf("%w with the filesystem %s", err, uuid)
	}
	if err := mountAll([]mountPoint{{device, dir, "ext4", unix.MS_NOATIME, ""}}); err != nil {
		return err
	}
	root, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := growRoot(root, diskOf(device)); err != nil {
		fmt.Fprintln(os.Stderr, "berth-agent:", err) // it is as large as it was
	}
	if err := switchRoot(dir); err != nil {
		return err
	}
	return mountAll([]mountPoint{{"run", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"}})
}

// filesystemOf returns the block device with the ext4 filesystem of a UUID.
func filesystemOf(uuid string) (device string, err error) {
	want, err := hex.DecodeString(strings.ReplaceAll(uuid, "-", ""))
	if err != nil {
		return "", err
	}
	blocks, err := os.ReadDir("/sys/class/block")
	if err != nil {
		return "", err
	}
	for _, block := range blocks {
		if device := "/dev/" + block.Name(); slices.Equal(ext4UUID(device), want) {
			return device, nil
		}
	}
	return "", errNoDisk
}

// Where ext4's superblock has its magic number and its UUID.
const (
	ext4MagicAt = 0x38
	ext4Magic   = 0xef53
	ext4UUIDAt  = 0x68
)

// ext4UUID returns the UUID of a device's filesystem, nil where it has none.
func ext4UUID(device string) []byte {
	file, err := os.Open(device)
	if err != nil {
		return nil
	}
	defer file.Close()
	super := make([]byte, ext4UUIDAt+16)
	if _, err := file.ReadAt(super, ext4Super); err != nil || binary.LittleEndian.Uint16(super[ext4MagicAt:]) != ext4Magic {
		return nil
	}
	return super[ext4UUIDAt:]
}

// diskOf returns the disk of a partition, or the disk itself.
func diskOf(device string) string {
	// The link leads to ../../devices/…/vda/vda3, or …/block/vda.
	sys, err := os.Readlink(filepath.Join("/sys/class/block", filepath.Base(device)))
	if parent := filepath.Base(filepath.Dir(sys)); err == nil && parent != "block" {
		return "/dev/" + parent
	}
	return device
}

// becomeInit has the root filesystem's own init take over. Where the host is Berth's the
// agent goes on beside it, as a service would.
func becomeInit(init string, host bool) error {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, agent.DiskArg+"=") })
	if host {
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer null.Close()
		attr := &os.ProcAttr{Env: env, Dir: "/", Files: []*os.File{null, os.Stderr, os.Stderr}, Sys: &unix.SysProcAttr{Setsid: true}}
		if _, err := os.StartProcess("/proc/self/exe", []string{"berth-agent"}, attr); err != nil {
			return err
		}
	}
	return &os.PathError{Op: "exec", Path: init, Err: unix.Exec(init, []string{init}, env)}
}

// runFromDisk runs the image's command on the machine's console to its end.
func (m *machine) runFromDisk(disk agent.Disk, host bool) error {
	console, err := os.OpenFile(consoleDevice(), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer console.Close()
	m.config.Process, m.stopSignal = disk.Process, unix.Signal(disk.StopSignal)
	cmd := m.command(disk.Process)
	cmd.files, cmd.terminal = [3]*os.File{console, console, console}, true
	var failed *agent.Exit
	if m.main, failed = m.reaper.start(cmd); failed != nil {
		return errors.New(failed.Error)
	}
	debug.SetGCPercent(50) // the memory is the user's
	if host {
		go m.serve()
	}
	exit := m.main.wait()
	unix.Kill(-1, unix.SIGKILL) // as in a container, nothing outlives it
	if exit.Code != 0 {
		return fmt.Errorf("%s has ended with status %d", disk.Process.Args[0], exit.Code)
	}
	return nil
}

// consoleDevice is what /dev/console stands for, which no process can have for its
// terminal: of several the last.
func consoleDevice() string {
	text, err := os.ReadFile("/sys/class/tty/console/active")
	if names := strings.Fields(string(text)); err == nil && len(names) > 0 {
		return "/dev/" + names[len(names)-1]
	}
	return "/dev/console"
}
