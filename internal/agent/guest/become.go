package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/agent"
)

// become makes a machine of its own of this one, which goes on from where another was
// saved. Nothing of the user's moves meanwhile, no packet leaves, and it has randomness of
// its own already (wake).
func (m *machine) become(encoded []byte) error {
	config, err := agent.DecodeConfig(encoded)
	if err != nil {
		return err
	}
	err = onWritableRoot(func() error {
		return errors.Join(setHostname(config.Hostname), writeEtc(config), m.renew(config.MachineID), markRenewed(m.renewedPath(), config.MachineID))
	})
	if err != nil {
		return err
	}
	if !m.isService() { // what is executed beside the entrypoint has its environment, with the host name
		m.config.Process.Env = config.Process.Env
	}
	return reconfigureNetwork(config.Interfaces)
}

// renewedPath is the file that names the machine that the writable disk has become. That
// of an image made of layers lies beside its root, where no path of the user's leads to.
func (m *machine) renewedPath() string {
	if m.disk == nil {
		return "/var/lib/berth-agent/renewed"
	}
	return "/proc/self/fd/" + strconv.Itoa(int(m.disk.Fd())) + "/renewed"
}

// renewOnce renews a machine that boots from a copy of another one's disk, unless it has
// done so in a boot before.
func (m *machine) renewOnce() error {
	id, path := m.config.MachineID, m.renewedPath()
	if id == "" {
		return nil
	}
	if done, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(done)) == id {
		return nil
	}
	if err := m.renew(id); err != nil {
		return err
	}
	return markRenewed(path, id)
}

func markRenewed(path, id string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(id+"\n"), 0o644)
}

// renew makes anew what on a disk tells one machine from another, or is its secret.
func (m *machine) renew(id string) error {
	for _, path := range []string{"/etc/machine-id", "/var/lib/dbus/machine-id"} {
		// One that is empty, or is not there, is made by whoever wants it.
		if old, err := os.ReadFile(path); err == nil && len(old) > 0 {
			if err := os.WriteFile(path, []byte(id+"\n"), 0o444); err != nil {
				return err
			}
		}
	}
	if err := os.Remove("/var/lib/systemd/random-seed"); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
		return err
	}
	return m.renewHostKeys("/etc/ssh")
}

// renewHostKeys makes the keys anew by which OpenSSH's server proves which machine it
// is, those that there are, and has a server that runs read them.
func (m *machine) renewHostKeys(dir string) error {
	keys, err := filepath.Glob(dir + "/ssh_host_*_key")
	if err != nil || len(keys) == 0 {
		return err
	}
	for _, key := range keys {
		kind := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(key), "ssh_host_"), "_key")
		fresh := key + ".berth-new"
		for _, path := range []string{fresh, fresh + ".pub"} {
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		if err := m.runTool("ssh-keygen", "-q", "-t", kind, "-N", "", "-f", fresh); err != nil {
			return fmt.Errorf("make the ssh host key %s anew: %w", key, err)
		}
		if err := errors.Join(os.Rename(fresh+".pub", key+".pub"), os.Rename(fresh, key)); err != nil {
			return err
		}
	}
	for _, pid := range pids() {
		// A server that gets SIGHUP executes itself anew (sshd(8)); its sessions do not.
		if p, ok := readProcess(pid); ok && p.Command == "sshd" && isListener(p) {
			_ = unix.Kill(pid, unix.SIGHUP) // it may have ended
		}
	}
	return nil
}

// isListener reports whether an sshd is not the session of another.
func isListener(p agent.Proc) bool {
	parent, ok := readProcess(p.PPID)
	return !ok || parent.Command != "sshd"
}

// runTool runs a program of the guest's as root, and beside what is held still.
func (m *machine) runTool(args ...string) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	cmd := command{
		process: agent.Process{Args: args, Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, User: "0:0"},
		files:   [3]*os.File{null, null, null}, rights: rights{capabilities: ^uint64(0)}, cgroup: -1,
	}
	p, failed := m.reaper.start(cmd)
	if failed != nil {
		return errors.New(failed.Error)
	}
	if exit := p.wait(); exit.Code != 0 {
		return fmt.Errorf("%s has ended with status %d", args[0], exit.Code)
	}
	return nil
}

// onWritableRoot has f write to a root that may be mounted read-only.
func onWritableRoot(f func() error) error {
	var st unix.Statfs_t
	if err := unix.Statfs("/", &st); err != nil {
		return os.NewSyscallError("statfs", err)
	}
	if st.Flags&unix.ST_RDONLY == 0 {
		return f()
	}
	if err := mount("", "/", "", unix.MS_REMOUNT, ""); err != nil {
		return err
	}
	return errors.Join(f(), mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
}
