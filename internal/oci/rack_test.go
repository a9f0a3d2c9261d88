package oci_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/berthcloud/berth/internal/testenv"
)

// onRack are the tests whose outcome depends on the kernel or on the version of cgroups.
const onRack = "Overlay|ConfigTakes|Exec|Join|Terminal|Cgroup|Pause|User(Runs|Delegated)|Resources|Unified|MountOptions|MappedMount|MemoryPolicy|AppArmor"

// TestRack runs the tests of this package again on a host with Debian's kernel:
// cgroup v2 alone, AppArmor, no detached layers in overlayfs. Some attacks join
// them.
func TestRack(t *testing.T) {
	again(t, testenv.NewRack,
		suite{".", "oci.test", "-test.run '" + onRack + "'"},
		suite{"../attack", "attack.test", "-test.short -test.run 'TestRuntime/(capab|desc|_dev)'"})
}

// TestRackSystemd runs tests on a host where systemd manages the cgroups and CRIU
// works.
func TestRackSystemd(t *testing.T) {
	again(t, testenv.NewSystemdRack, suite{".", "oci.test", "-test.run '^Test(Systemd|Checkpoint)'"})
}

// suite is a package's tests, the name of their program, and arguments for it.
type suite struct{ pkg, name, args string }

// again runs tests on a host of a rack.
func again(t *testing.T, rack func(testing.TB, int, map[string]string) *testenv.Rack, suites ...suite) {
	t.Helper()
	if testing.Short() || os.Getenv(prebuilt) != "" {
		t.Skip("boots a VM")
	}
	testenv.Check(t)
	const programs = "/opt/berth"
	tests := map[string]string{}
	line := "uname -r"
	for _, u := range suites {
		tests[u.name] = filepath.Join(t.TempDir(), u.name)
		if out, err := exec.Command("go", "test", "-c", "-o", tests[u.name], u.pkg).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		line += " && " + programs + "/" + u.name + " -test.v -test.timeout 280s " + u.args
	}
	host := rack(t, 1, tests).Hosts[0]
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	// Its /tmp may be memory, and not on every kernel can that be id-mapped.
	r := host.Do(ctx, testenv.Command{Argv: []string{"sh", "-c",
		"mkdir -p " + host.Temp() + " && cd / && export " + prebuilt + "=" + programs + "/berth-oci TMPDIR=" + host.Temp() + " && " + line}})
	t.Logf("%s", r.Stdout)
	if r.Exit != 0 || r.Err != nil {
		t.Errorf("%s", r.Stderr)
	}
}
