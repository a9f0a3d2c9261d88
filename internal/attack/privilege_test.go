package attack

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// privilegeAttacks use rights that nobody granted.
var privilegeAttacks = []attack{
	{"capabilities", "CVE-2022-27649, CVE-2022-29162", false, capabilities},
	{"capabilities, user namespace", "CVE-2022-27649, CVE-2022-29162", false, func(a *testbed) verdict { a.userNamespace(); return capabilities(a) }},
	{"state directory", "CVE-2024-25621", false, stateDirectory},
}

// capabilities compares every set of the first process, of a command and of a
// user's command with what was asked for, together with the other confinement.
func capabilities(a *testbed) verdict {
	a.spec.Process.NoNewPrivileges = true
	a.spec.Process.Capabilities = &specs.LinuxCapabilities{
		Bounding:  []string{"CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"},
		Permitted: []string{"CAP_CHOWN", "CAP_KILL"}, Effective: []string{"CAP_CHOWN"},
	}
	a.spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"mkdirat", "mkdir"}, Action: specs.ActErrno},
	}}
	a.shell("cat /proc/self/status; sleep 100")
	if r := a.start(); r.code != 0 {
		return refusal(r.stderr)
	}
	log := a.said("nonvoluntary")
	if r := a.exec(specs.User{}, "mkdir", "/dev/shm/x"); !strings.Contains(r.stderr, "Operation not permitted") {
		return fall("a command is not filtered: exit %d, %s", r.code, r.stderr)
	}
	return worst([]verdict{
		confinedAs("the first process", log, root),
		confinedAs("a command", a.exec(specs.User{}, "cat", "/proc/self/status").stdout, root),
		confinedAs("a user's command", a.exec(specs.User{UID: 1000, GID: 1000}, "cat", "/proc/self/status").stdout, user),
	})
}

// exec runs a command with what was asked for the first process, as engines do.
func (a *testbed) exec(user specs.User, args ...string) result {
	process := *a.spec.Process
	process.Args, process.User = args, user
	raw, err := json.Marshal(process)
	a.must(err)
	file := filepath.Join(a.dir, "process.json")
	a.must(os.WriteFile(file, raw, 0o600))
	return a.oci("exec", "--process", file, a.id)
}

// root and user are what the kernel makes of the sets above at execve: root's
// permitted ones become effective; no_new_privs keeps the bounding set out.
var (
	root = map[string]string{
		"CapInh": "0000000000000000", "CapBnd": "0000000000002021", "CapPrm": "0000000000000021",
		"CapEff": "0000000000000021", "CapAmb": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2",
	}
	user = map[string]string{
		"CapInh": "0000000000000000", "CapBnd": "0000000000002021", "CapPrm": "0000000000000000",
		"CapEff": "0000000000000000", "CapAmb": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2",
	}
)

func confinedAs(who, status string, want map[string]string) verdict {
	var differ []string
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got := field(status, name); got != want[name] {
			differ = append(differ, fmt.Sprintf("%s is %s, not %s", name, got, want[name]))
		}
	}
	if len(differ) > 0 {
		return fall("%s is not confined as asked for: %s", who, strings.Join(differ, ", "))
	}
	return held()
}

// stateDirectory looks as nobody for anything of a running container that can be
// read or entered.
func stateDirectory(a *testbed) verdict {
	a.spec.Process.Args = []string{"sleep", "100"}
	if r := a.start(); r.code != 0 {
		return refusal(r.stderr)
	}
	find := exec.Command("find", a.root(), "-mindepth", "1", "(", "-type", "d", "-executable", "-o", "-type", "f", "-readable", ")", "-print")
	find.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, _ := find.Output() // it complains of what it must not see
	if found := strings.TrimSpace(string(out)); found != "" {
		return fall("everybody reads %s", strings.Join(strings.Fields(found), " "))
	}
	return held()
}
