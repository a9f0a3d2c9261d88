package conformance

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/testenv"
)

// peers asks for runc and crun to be run too, and for the table of the document.
var peers = flag.Bool("peers", false, "run installed peers as well and print the table of docs/runtime-conformance.md")

// known are the cases that berth-oci does not pass, by program and the beginning of the
// case's name, each with its reason in docs/runtime-conformance.md. "Here" in a reason
// is a property of a machine: elsewhere the case may pass.
var known = []struct{ program, name string }{
	{"delete", "attempting to `delete` a container that is not `stopped`"},
	{"delete_resources", "pids limit is set correctly"},
	{"hooks", "Hooks MUST be called in the listed order"},
	{"linux_cgroups_blkio", "ends with exit status 1"},
	{"linux_cgroups_hugetlb", "ends with exit status 1"},
	{"linux_cgroups_memory", "memory kernel is set correctly"},
	{"linux_cgroups_network", "ends with exit status 1"},
	{"linux_cgroups_pids", "pids limit is set correctly"},
	{"linux_cgroups_relative_blkio", "exit status 1"},
	{"linux_cgroups_relative_hugetlb", "exit status 1"},
	{"linux_cgroups_relative_memory", "memory kernel is set correctly"},
	{"linux_cgroups_relative_network", "exit status 1"},
	{"linux_cgroups_relative_pids", "pids limit is set correctly"},
	{"linux_process_apparmor_profile", "ends with exit status 1"},
	{"misc_props", "implementations that are reading/processing this configuration file MUST NOT generate an error if they encounter an unknown annotation key"},
	{"pidfile", "create with '--pid-file' option works"},
	{"poststart_fail", "if any poststart hook fails, the runtime MUST log a warning"},
	{"prestart", "Pre-start hooks MUST be called after the `start` operation is called"},
	{"process_capabilities", "expected "}, // and CAP_SYS_RESOURCE
	{"process_capabilities_fail", "ends with exit status 1"},
	{"process_rlimits", "has expected soft RLIMIT_NOFILE"},
	{"start", "`start` operation MUST generate an error if `process` was not set"},
	{"start", "timeout in waiting for the container status"},
}

func isKnown(program, name string) bool {
	for _, k := range known {
		if k.program == program && strings.HasPrefix(name, k.name) {
			return program != "process_capabilities" || strings.Contains(name, "CAP_SYS_RESOURCE")
		}
	}
	return false
}

// passed are programs of which nothing may be missing: how many cases they have at
// least. A program that stops in the middle would otherwise look like one that passed.
var passed = map[string]int{
	"create": 4, "default": 300, "hooks_stdin": 3, "hostname": 4, "kill": 5, "killsig": 3, "linux_devices": 320,
	"linux_masked_paths": 4, "linux_mount_label": 300, "linux_ns_itype": 7, "linux_ns_nopath": 7, "linux_ns_path": 5, "linux_ns_path_type": 14,
	"linux_readonly_paths": 4, "linux_rootfs_propagation": 4, "linux_seccomp": 2, "linux_sysctl": 300,
	"linux_uid_mappings": 310, "mounts": 320, "process": 310, "process_capabilities": 290, "process_oom_score_adj": 300,
	"process_rlimits": 320, "process_user": 310, "root_readonly_true": 310, "start": 6, "state": 3,
}

// racing are programs that race with the container they look at: killsig signals a
// shell that has not set its trap yet, the hook of poststart writes into the same file
// as the process beside it, those of hooks_stdin have one second on a busy machine. One
// good run of several shows what there is to show.
var racing = []string{"killsig", "poststart", "hooks_stdin"}

// racingRuns is how often such a program is run before a failure counts.
const racingRuns = 20

// TestSuite fails when a case fails that is not known to, or when cases are missing.
func TestSuite(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs 58 programs")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	testenv.Check(t)
	s := newSuite(t)
	root := testenv.Dir(t)
	berth := candidate{name: "berth-oci", program: filepath.Join(testenv.Programs(t), "berth-oci")}
	t.Cleanup(func() { deleteAll(t, berth.program, root) })
	results := s.run(berth, root)
	count := 0
	for i, r := range results {
		if usesCgroups(r.program) && unified() {
			continue
		}
		for n := 1; n < racingRuns && len(r.failed) > 0 && slices.Contains(racing, r.program); n++ {
			r = s.program(r.program, berth, root)
			results[i] = r
		}
		count += len(r.ok)
		for _, name := range r.failed {
			if !isKnown(r.program, name) {
				t.Errorf("%s: not ok: %s", r.program, name)
			}
		}
		if least := passed[r.program]; len(r.ok) < least {
			t.Errorf("%s: %d cases passed; want at least %d", r.program, len(r.ok), least)
		}
	}
	t.Logf("%d cases of %d programs passed", count, len(results))
	if *peers {
		compare(t, s, results)
	}
}

// unified reports whether the machine has cgroup v2 alone, of which the suite knows
// nothing.
func unified() bool {
	var fs unix.Statfs_t
	return unix.Statfs("/sys/fs/cgroup", &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC
}

// deleteAll removes the containers that the suite forgets.
func deleteAll(t *testing.T, program, root string) {
	ids, err := exec.CommandContext(context.Background(), program, "--root", root, "list", "--quiet").Output()
	if err != nil {
		t.Errorf("list: %v", err)
	}
	for id := range strings.FieldsSeq(string(ids)) {
		if out, err := exec.CommandContext(context.Background(), program, "--root", root, "delete", "--force", id).CombinedOutput(); err != nil {
			t.Errorf("delete %s: %v: %s", id, err, out)
		}
	}
}

// compare runs the peers and prints the table and what they pass and we do not.
func compare(t *testing.T, s *suite, ours []result) {
	columns := [][]result{ours}
	// Without a mount namespace in config.json they mount on the host and leave that
	// there, so that they get one to themselves, without what crun refuses: the hybrid
	// layout of cgroups.
	under := []string{"unshare", "--mount", "sh", "-c", "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"", "sh"}
	for _, c := range []candidate{
		{name: "runc", program: "runc", under: under},
		{name: "crun", program: "crun", under: under, prepare: oldVersion},
	} {
		if _, err := exec.LookPath(c.name); err != nil {
			t.Logf("%s is not installed", c.name)
			columns = append(columns, nil)
			continue
		}
		root := testenv.Dir(t)
		t.Cleanup(func() { deleteAll(t, c.name, root) })
		theirs := s.run(c, root)
		columns = append(columns, theirs)
		for i, r := range ours {
			for _, name := range r.failed {
				if !slices.Contains(theirs[i].failed, name) && slices.Contains(theirs[i].ok, name) || len(theirs[i].failed) == 0 {
					t.Logf("%s passes %s: %s", c.name, r.program, name)
				}
			}
		}
	}
	var b strings.Builder
	for i, r := range ours {
		fmt.Fprintf(&b, "| %s |", r.program)
		for _, column := range columns {
			if column == nil {
				b.WriteString(" |")
				continue
			}
			fmt.Fprintf(&b, " %d / %d |", len(column[i].ok), len(column[i].failed))
		}
		b.WriteString("\n")
	}
	t.Logf("program, ok / not ok of berth-oci, runc, crun:\n%s", b.String())
}

// oldVersion lets a crun that knows the specification up to 1.0 read what the suite
// writes.
const oldVersion = `for a; do
	[ "$previous" = --bundle ] && sed -i 's/"ociVersion": *"1.3.0"/"ociVersion": "1.0.2"/' "$a/config.json"
	previous=$a
done`

func TestParse(t *testing.T) {
	r := parse("p", "TAP version 13\nok 1 - a # SKIP not set\nnot ok 2 - b - c\n  ---\n  {\n    \"error\": \"x\"\n  }\n  ...\n1..2\n", "", nil)
	if !slices.Equal(r.ok, []string{"a"}) || !slices.Equal(r.failed, []string{"b - c"}) {
		t.Errorf("%+v", r)
	}
	r = parse("p", "TAP version 13\n  ---\n  {\n    \"error\": \"broken\\nRefer to: y\"\n  }\n  ...\n1..0\n", "", nil)
	if !slices.Equal(r.failed, []string{"broken"}) || len(r.ok) > 0 {
		t.Errorf("%+v", r)
	}
	if r = parse("p", "TAP version 13\n1..0\n", "", nil); len(r.ok) != 1 || len(r.failed) > 0 {
		t.Errorf("%+v", r)
	}
}
