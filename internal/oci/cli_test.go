package oci_test

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"
)

// TestEngineCommandLines carries out the command lines of those who call OCI runtimes,
// with every global option they may pass.
func TestEngineCommandLines(t *testing.T) {
	b := newBox(t, "sleep 100")
	b.write()
	temp := t.TempDir()
	pid, log, process := filepath.Join(temp, "pid"), filepath.Join(temp, "log"), filepath.Join(temp, "process.json")
	must(t, os.WriteFile(process, []byte(`{"user":{"uid":0,"gid":0},"args":["true"],"cwd":"/"}`), 0o600))
	limits := filepath.Join(temp, "limits.json")
	must(t, os.WriteFile(limits, []byte(`{"cpu":{"shares":100},"pids":{"limit":50}}`), 0o600))
	for _, engine := range []struct {
		name  string
		lines []string
	}{
		{"containerd with go-runc", []string{
			"--debug --log " + log + " --log-format json --rootless=false create --bundle " + b.bundle + " --pid-file " + pid + " --no-new-keyring ID",
			"--log " + log + " --log-format json start ID",
			"--log " + log + " --log-format json exec --process " + process + " --detach --pid-file " + pid + " ID",
			"--log " + log + " --log-format json state ID",
			"--log " + log + " --log-format json ps --format json ID",
			"--log " + log + " --log-format json events --stats ID",
			"--log " + log + " --log-format json update --resources=" + limits + " ID",
			"--log " + log + " --log-format json pause ID",
			"--log " + log + " --log-format json resume ID",
			"--log " + log + " --log-format json kill --all ID 9",
			"--log " + log + " --log-format json delete --force ID",
		}},
		{"podman and conmon with crun's options", []string{
			"--version",
			"--cgroup-manager cgroupfs --log-format=json --log=" + log + " create --bundle " + b.bundle + " --pid-file " + pid + " ID",
			"start ID", "--cgroup-manager cgroupfs exec --pid-file " + pid + " --process " + process + " --detach ID",
			"state ID", "kill ID 9", "delete --force ID", "features",
		}},
		{"CRI-O", []string{
			"create -b " + b.bundle + " --no-pivot --pid-file " + pid + " ID", "start ID", "update -r " + limits + " ID", "exec -d -p " + process + " ID",
			"kill -a ID KILL", "delete -f ID",
		}},
		{"crun without cgroups", []string{
			"--cgroup-manager=disabled run -d -b " + b.bundle + " ID", "list -q", "list --format json", "list -f table", "delete -f ID",
		}},
		{"runc by hand", []string{
			"--criu criu --rootless auto run --bundle=" + b.bundle + " --detach --keep --no-subreaper ID",
			"exec --user 0:0 --additional-gids 5 -g 6 --env A=b -e C=d --cwd / --cap CAP_KILL --no-new-privs --ignore-paused ID true",
			"exec -u 0 -c CAP_KILL ID true", "ps ID -ef", "kill ID 0", "kill ID", "kill ID SIGKILL", "delete --force ID", "delete --force ID",
		}},
	} {
		if engine.name == "crun without cgroups" {
			// The mount of the container's own cgroup goes with the cgroups.
			b.spec.Mounts = b.spec.Mounts[:len(b.spec.Mounts)-1]
			b.write()
		}
		for _, line := range engine.lines {
			line = strings.ReplaceAll(line, "ID", b.id)
			if out := b.oci(strings.Fields(line)...); out.code != 0 {
				t.Errorf("%s: %s: %+v", engine.name, line, out)
			}
		}
		b.nothing()
	}
}

// TestPidfdSocket receives the descriptor of a process of each command.
func TestPidfdSocket(t *testing.T) {
	b := newBox(t, "sleep 100")
	b.write()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	must(t, err)
	defer l.Close()
	for _, args := range [][]string{
		{"create", "--pidfd-socket", path, "--bundle", b.bundle, b.id},
		{"exec", "--detach", "--pidfd-socket", path, b.id, "sleep", "100"},
	} {
		if out := b.oci(args...); out.code != 0 {
			t.Fatalf("%v: %+v", args, out)
		}
		conn, err := l.Accept()
		must(t, err)
		oob := make([]byte, unix.CmsgSpace(4))
		_, n, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(make([]byte, 16), oob)
		conn.Close()
		must(t, err)
		messages, err := unix.ParseSocketControlMessage(oob[:n])
		must(t, err)
		fds, err := unix.ParseUnixRights(&messages[0])
		must(t, err)
		if err := unix.PidfdSendSignal(fds[0], unix.SIGCONT, nil, 0); err != nil {
			t.Errorf("%s: the descriptor is no pidfd: %v", args[0], err)
		}
		unix.Close(fds[0])
	}
	b.oci("delete", "--force", b.id)
	if out := b.oci("create", "--pidfd-socket", path+"x", "--bundle", b.bundle, b.id); out.code != 1 || !strings.Contains(out.stderr, "--pidfd-socket") {
		t.Errorf("%+v", out)
	}
	b.nothing()
}

// TestExecCgroup runs a command in a cgroup below the container's.
func TestExecCgroup(t *testing.T) {
	b := newBox(t, "sleep 100")
	b.start()
	dir, spell := "/sys/fs/cgroup/pids/"+b.id+"/sub", "pids:sub"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		dir, spell = "/sys/fs/cgroup/"+b.id+"/sub", "sub"
	}
	must(t, os.Mkdir(dir, 0o755))
	if out := b.oci("exec", "--cgroup", spell, b.id, "grep", "-c", "/sub$", "/proc/self/cgroup"); out.stdout != "1\n" {
		t.Errorf("%+v", out)
	}
	for _, wrong := range []string{"nowhere", "galaxy:sub", "../../sub"} {
		if out := b.oci("exec", "--cgroup", wrong, b.id, "true"); out.code != 255 || !strings.Contains(out.stderr, "--cgroup: ") {
			t.Errorf("%s: %+v", wrong, out)
		}
	}
}

// TestExecIgnorePaused starts a command in a paused container, where it waits.
func TestExecIgnorePaused(t *testing.T) {
	b := newBox(t, "sleep 100")
	b.start()
	if out := b.oci("pause", b.id); out.code != 0 {
		t.Fatalf("%+v", out)
	}
	cmd := exec.CommandContext(t.Context(), binary, "--root", b.root, "exec", "--ignore-paused", b.id, "true")
	must(t, cmd.Start())
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	if out := b.oci("resume", b.id); out.code != 0 {
		t.Errorf("%+v", out)
	}
	if err := <-done; err != nil {
		t.Errorf("the command: %v", err)
	}
}

// TestFeatures names everything that the specification makes a runtime name, and every
// mount option that MUST or SHOULD be known.
func TestFeatures(t *testing.T) {
	var f features.Features
	b := newBox(t, "")
	must(t, json.Unmarshal([]byte(b.oci("features").stdout), &f))
	for option := range strings.FieldsSeq(`async atime bind defaults dev diratime dirsync exec iversion lazytime loud noatime nodev nodiratime
		noexec noiversion nolazytime norelatime nostrictatime nosuid nosymfollow private ratime rbind rdev rdiratime relatime remount rexec
		rnoatime rnodiratime rnoexec rnorelatime rnostrictatime rnosuid rnosymfollow ro rprivate rrelatime rro rrw rshared rslave rstrictatime
		rsuid rsymfollow runbindable rw shared silent slave strictatime suid symfollow sync tmpcopyup unbindable idmap ridmap`) {
		if !slices.Contains(f.MountOptions, option) {
			t.Errorf("mountOptions lacks %s", option)
		}
	}
	l := f.Linux
	if len(f.Hooks) != 6 || len(l.Namespaces) != 8 || len(l.Capabilities) < 41 || !*l.IntelRdt.Enabled || !*l.NetDevices.Enabled ||
		len(l.MemoryPolicy.Modes) != 7 || len(l.MemoryPolicy.Flags) != 3 || !*l.MountExtensions.IDMap.Enabled || f.OCIVersionMax != specs.Version {
		t.Errorf("%+v", f)
	}
}

// TestEvents prints what runc does.
func TestEvents(t *testing.T) {
	b := newBox(t, "sleep 100")
	b.start()
	out := b.oci("events", "--stats", b.id)
	var e struct {
		Type, ID string
		Data     struct {
			CPU    struct{ Usage struct{ Total uint64 } }
			Memory struct{ Usage struct{ Usage, Limit uint64 } }
			Pids   struct{ Current uint64 }
		}
	}
	if err := json.Unmarshal([]byte(out.stdout), &e); err != nil {
		t.Fatalf("%+v: %v", out, err)
	}
	if e.Type != "stats" || e.ID != b.id || e.Data.CPU.Usage.Total == 0 || e.Data.Memory.Usage.Usage == 0 || e.Data.Memory.Usage.Limit == 0 || e.Data.Pids.Current != 1 {
		t.Errorf("%s", out.stdout)
	}
	if out := b.oci("update", "--l3-cache-schema", "L3:0=f", b.id); out.code != 1 || !strings.Contains(out.stderr, "linux.intelRdt: is not set") {
		t.Errorf("%+v", out)
	}
}
