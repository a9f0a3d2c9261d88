package bundle

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// ipcSysctls are the kernel.* settings that belong to an IPC namespace
// (ipc_namespaces(7)); fs.mqueue.* does too.
var ipcSysctls = []string{
	"kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem", "kernel/shmall",
	"kernel/shmmax", "kernel/shmmni", "kernel/shm_rmid_forced",
}

// SysctlPath turns a sysctl's name into a path below /proc/sys. As in sysctl(8)
// the first separator decides: net.ipv4.conf.eth0/1.x and net/ipv4/conf/eth0.1/x
// are the same.
func SysctlPath(name string) string {
	i := strings.IndexAny(name, "./")
	if i < 0 || name[i] == '/' {
		return name
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, name)
}

// checkSysctl refuses every setting that would reach beyond the container: only
// those of namespaces that the container does not share with the host.
func checkSysctl(s *specs.Spec) error {
	for name := range s.Linux.Sysctl {
		path := SysctlPath(name)
		if !filepath.IsLocal(path) || filepath.Clean(path) != path || strings.ContainsRune(path, 0) {
			return fmt.Errorf("linux.sysctl: %q is not the name of a setting", name)
		}
		need := specs.LinuxNamespaceType("")
		switch {
		case strings.HasPrefix(path, "net/"):
			need = specs.NetworkNamespace
		case strings.HasPrefix(path, "fs/mqueue/") || contains(ipcSysctls, path):
			need = specs.IPCNamespace
		case path == "kernel/domainname", path == "kernel/hostname":
			need = specs.UTSNamespace
		case strings.HasPrefix(path, "user/"):
			need = specs.UserNamespace
		default:
			return fmt.Errorf("linux.sysctl: %q is not a setting of any namespace: it would change the host", name)
		}
		if Namespace(s, need) == nil {
			return fmt.Errorf("linux.sysctl: %q needs a %s namespace in linux.namespaces: it would change the host", name, need)
		}
	}
	return nil
}

func contains(list []string, s string) bool {
	return slices.Contains(list, s)
}
