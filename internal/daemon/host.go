package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/oci/landlock"
)

// virtiofsdPaths are where distributions put a daemon that is not for users
// and so not in PATH.
var virtiofsdPaths = []string{"/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd"}

// qemuBinary names the system emulator of each architecture.
var qemuBinary = map[string]string{"amd64": "qemu-system-x86_64", "arm64": "qemu-system-aarch64"}

// uefiFiles are where Debian's packages ovmf and qemu-efi-aarch64 have their firmware,
// without secure boot.
var uefiFiles = map[string]instance.UEFI{
	"amd64": {Code: "/usr/share/OVMF/OVMF_CODE_4M.fd", Vars: "/usr/share/OVMF/OVMF_VARS_4M.fd"},
	"arm64": {Code: "/usr/share/AAVMF/AAVMF_CODE.fd", Vars: "/usr/share/AAVMF/AAVMF_VARS.fd"},
}

// agents returns the paths of the guest agents, by architecture: that of the host's
// own is named as the others are, without one.
func (c *Config) agents() map[string]string {
	paths := map[string]string{}
	for arch := range qemuBinary {
		paths[arch] = filepath.Join(c.Bin, "berth-agent-"+arch)
	}
	paths[runtime.GOARCH] = filepath.Join(c.Bin, "berth-agent")
	return paths
}

// gatherHost finds out what plans depend on, but for KVM, which is proved and
// not looked up.
func gatherHost() (instance.Host, error) {
	h := instance.Host{Arch: runtime.GOARCH, CPUs: runtime.NumCPU()}
	var err error
	if h.Memory, err = totalMemory(); err != nil {
		return h, err
	}
	var cgroup unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &cgroup); err != nil {
		return h, fmt.Errorf("there is no cgroup filesystem; mount one at /sys/fs/cgroup: %w", err)
	}
	h.CgroupV2 = cgroup.Type == unix.CGROUP2_SUPER_MAGIC
	if h.CgroupsHold, err = delegatesByNamespace(); err != nil {
		return h, err
	}
	h.UserNamespaces = userNamespaces()
	h.AppArmor = reads("/sys/module/apparmor/parameters/enabled", "Y")
	_, selinux := os.Stat("/sys/fs/selinux/enforce")
	h.SELinux = selinux == nil
	if h.Landlock, err = landlock.Version(); err != nil {
		return h, err
	}
	if h.ThermalThrottle, err = filepath.Glob("/sys/devices/system/cpu/cpu*/thermal_throttle"); err != nil {
		return h, err
	}
	h.QEMU = map[string]string{}
	for arch, name := range qemuBinary {
		if path, err := exec.LookPath(name); err == nil {
			h.QEMU[arch] = path
		}
	}
	if path, err := exec.LookPath("swtpm"); err == nil {
		h.Swtpm = path
	}
	_, ksm := os.Stat("/sys/kernel/mm/ksm/run")
	h.KSM = ksm == nil
	const zone = "/etc/localtime" // localtime(5); without it the zone is UTC
	if _, err := os.Stat(zone); err == nil {
		h.Zone = zone
	}
	h.UEFI = map[string]instance.UEFI{}
	for arch, files := range uefiFiles {
		if _, err := os.Stat(files.Code); err == nil {
			h.UEFI[arch] = files
		}
	}
	for _, path := range virtiofsdPaths {
		if _, err := os.Stat(path); err == nil {
			h.Virtiofsd = path
			break
		}
	}
	return h, nil
}

// diskOf returns the disk that holds a directory; the zero value where its filesystem
// has none of its own. The kernel limits whole disks alone, not partitions.
func diskOf(dir string) (disk instance.BlockDevice) {
	var info unix.Stat_t
	if err := unix.Stat(dir, &info); err != nil || unix.Major(info.Dev) == 0 {
		return disk
	}
	path := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(info.Dev), unix.Minor(info.Dev))
	if _, err := os.Stat(path + "/partition"); err == nil {
		path += "/.."
	}
	text, err := os.ReadFile(path + "/dev")
	if err != nil {
		return disk
	}
	if _, err := fmt.Sscanf(string(text), "%d:%d", &disk.Major, &disk.Minor); err != nil {
		return instance.BlockDevice{}
	}
	return disk
}

// delegatesByNamespace reports whether cgroup v2 is mounted with nsdelegate.
func delegatesByNamespace() (bool, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return false, err
	}
	for line := range bytes.Lines(mounts) {
		if f := bytes.Fields(line); len(f) >= 4 && string(f[1]) == "/sys/fs/cgroup" {
			return slices.ContainsFunc(bytes.Split(f[3], []byte(",")), func(o []byte) bool { return string(o) == "nsdelegate" }), nil
		}
	}
	return false, nil
}

// totalMemory returns the host's memory in bytes.
func totalMemory() (int64, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(data) {
		f := bytes.Fields(line)
		if len(f) >= 2 && string(f[0]) == "MemTotal:" {
			kib, err := strconv.ParseInt(string(f[1]), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("/proc/meminfo has no MemTotal")
}

// userNamespaces reports whether the kernel lets root make user namespaces.
func userNamespaces() bool {
	if _, err := os.Stat("/proc/self/ns/user"); err != nil {
		return false
	}
	return !reads("/proc/sys/user/max_user_namespaces", "0")
}

// reads reports whether a file's first line is want.
func reads(path, want string) bool {
	data, err := os.ReadFile(path)
	return err == nil && string(bytes.TrimSpace(data)) == want
}
