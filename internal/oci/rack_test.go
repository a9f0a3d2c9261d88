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
	if testing.Short() || os.Getenv(prebuilt) != "" {
		t.Skip("boots a VM")
	}
	testenv.Check(t)
	tests := map[string]string{}
	for name, pkg := range map[string]string{"oci.test": ".", "attack.test": "../attack"} {
		tests[name] = filepath.Join(t.TempDir(), name)
		if out, err := exec.Command("go", "test", "-c", "-o", tests[name], pkg).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	host := testenv.NewRack(t, 1, tests).Hosts[0]
	programs := host.Programs()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	// Its /tmp may be memory, and not on every kernel can that be id-mapped.
	r := host.Do(ctx, testenv.Command{Argv: []string{"sh", "-c",
		"uname -r; mkdir -p " + host.Temp() + " && cd / && export " + prebuilt + "=" + programs + "/berth-oci TMPDIR=" + host.Temp() + " && " +
			programs + "/oci.test -test.v -test.timeout 280s -test.run '" + onRack + "' && " +
			programs + "/attack.test -test.v -test.short -test.timeout 280s -test.run 'TestRuntime/(capab|desc|_dev)'"}})
	t.Logf("%s", r.Stdout)
	if r.Exit != 0 || r.Err != nil {
		t.Errorf("%s", r.Stderr)
	}
}
