package attack

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/testenv"
)

// reach is what the probe prints; see there.
type reach struct {
	Status                                map[string]string
	UserNS                                bool
	Devices, Syscalls, Readable, Writable []string
}

// TestDefaultsNoWider compares what a container of Berth and one of dockerd can
// reach when nobody asked for anything.
func TestDefaultsNoWider(t *testing.T) {
	testenv.Check(t)
	ours, theirs, _ := compareDefaults(t)
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		a, b := parseMask(t, ours.Status[set]), parseMask(t, theirs.Status[set])
		if a&^b != 0 {
			t.Errorf("%s is %x; docker's is %x", set, a, b)
		}
	}
	if !ours.UserNS || ours.Status["NoNewPrivs"] != "1" || ours.Status["Seccomp"] != "2" {
		t.Errorf("user namespace %v, %v", ours.UserNS, ours.Status)
	}
	for _, x := range []struct {
		what  string
		wider []string
	}{
		{"device", beyond(ours.Devices, theirs.Devices)},
		{"readable file", slices.DeleteFunc(beyond(ours.Readable, theirs.Readable), ownCgroup)},
		{"writable file", beyond(ours.Writable, theirs.Writable)},
		{"system call", slices.DeleteFunc(beyond(ours.Syscalls, theirs.Syscalls), allowedByNow)},
	} {
		for _, w := range x.wider {
			t.Errorf("docker's container does not have the %s %s", x.what, w)
		}
	}
}

// compareDefaults runs the probe in a container of each engine. Berth's runs
// twice, and what comes and goes on the machine meanwhile does not count.
func compareDefaults(t *testing.T) (ours, theirs reach, version string) {
	t.Helper()
	berth, docker, probe := newBerth(t), newDocker(t), buildProbe(t)
	run := []string{"run", "--rm", "--network", "none", "-v", probe + ":/probe:ro", "base", "/probe/probe"}
	// While it runs, docker's container sees Berth's mounts, as Berth's does itself.
	berth.Berth(t, "run", "-d", "--network", "none", "base", "sleep", "600")
	ours = parseReach(t, berth.Try(t.Context(), run...))
	theirs = parseReach(t, docker.try(nil, run...))
	again := parseReach(t, berth.Try(t.Context(), run...))
	transient := func(path string) bool { return !slices.Contains(again.Readable, path) }
	ours.Readable = slices.DeleteFunc(ours.Readable, transient)
	version = strings.TrimSpace(docker.try(nil, "version", "--format", "{{.Server.Version}}").Stdout)
	return ours, theirs, version
}

// buildProbe returns a directory with the probe in it.
func buildProbe(t *testing.T) string {
	t.Helper()
	dir := testenv.Dir(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "probe"), "./probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}

func parseReach(t *testing.T, r testenv.Result) (got reach) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.Stdout), &got); err != nil || r.Exit != 0 {
		t.Fatalf("the probe: %v; exit %d, %s", err, r.Exit, r.Stderr)
	}
	return got
}

func parseMask(t *testing.T, text string) uint64 {
	t.Helper()
	mask, err := strconv.ParseUint(text, 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return mask
}

// beyond returns what ours has and theirs has not.
func beyond(ours, theirs []string) []string {
	has := map[string]bool{}
	for _, x := range theirs {
		has[x] = true
	}
	return slices.DeleteFunc(slices.Clone(ours), func(x string) bool { return has[x] })
}

// ownCgroup is where a host with both versions of cgroups has the second: docker
// shows a container its own cgroup there where the host has nothing else, and
// otherwise only those of the first.
func ownCgroup(path string) bool { return strings.HasPrefix(path, "/sys/fs/cgroup/unified/") }

// allowedByNow reports whether a system call, which the docker beside us refuses,
// is one that docker's profile has let in since.
func allowedByNow(call string) bool {
	number, err := strconv.Atoi(call)
	return err == nil && slices.Contains(profileNames(), since20()[number])
}

// since20 names the calls that docker 20.10 did not allow yet.
func since20() map[int]string {
	return map[int]string{
		unix.SYS_NAME_TO_HANDLE_AT: "name_to_handle_at", unix.SYS_PROCESS_VM_READV: "process_vm_readv", unix.SYS_PROCESS_VM_WRITEV: "process_vm_writev",
		unix.SYS_PKEY_MPROTECT: "pkey_mprotect", unix.SYS_PKEY_ALLOC: "pkey_alloc", unix.SYS_PKEY_FREE: "pkey_free",
		unix.SYS_LANDLOCK_CREATE_RULESET: "landlock_create_ruleset", unix.SYS_LANDLOCK_ADD_RULE: "landlock_add_rule", unix.SYS_LANDLOCK_RESTRICT_SELF: "landlock_restrict_self",
		unix.SYS_MEMFD_SECRET: "memfd_secret", unix.SYS_PROCESS_MRELEASE: "process_mrelease", unix.SYS_FUTEX_WAITV: "futex_waitv",
		unix.SYS_CACHESTAT: "cachestat", unix.SYS_FCHMODAT2: "fchmodat2", unix.SYS_MAP_SHADOW_STACK: "map_shadow_stack",
		unix.SYS_FUTEX_WAKE: "futex_wake", unix.SYS_FUTEX_WAIT: "futex_wait", unix.SYS_FUTEX_REQUEUE: "futex_requeue",
		unix.SYS_STATMOUNT: "statmount", unix.SYS_LISTMOUNT: "listmount", unix.SYS_MSEAL: "mseal",
		unix.SYS_SETXATTRAT: "setxattrat", unix.SYS_GETXATTRAT: "getxattrat", unix.SYS_LISTXATTRAT: "listxattrat", unix.SYS_REMOVEXATTRAT: "removexattrat",
	}
}

// profileNames are the calls that docker's profile of today allows a container
// with the default capabilities, whatever their arguments.
func profileNames() (names []string) {
	for _, rule := range seccomp.DefaultProfile().Syscalls {
		if rule.Action == specs.ActAllow && len(rule.Args) == 0 && (rule.Includes == nil || len(rule.Includes.Caps) == 0) {
			names = append(names, rule.Names...)
		}
	}
	return names
}

// newer names the calls of a list.
func newer(calls []string) (names []string) {
	for _, call := range calls {
		number, err := strconv.Atoi(call)
		if err != nil || since20()[number] == "" {
			names = append(names, call)
			continue
		}
		names = append(names, since20()[number])
	}
	return names
}
