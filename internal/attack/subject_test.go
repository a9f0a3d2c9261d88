package attack

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthcloud/berth/internal/testenv"
)

// prebuilt names a berth-oci that was built before: a host of a rack has no Go.
const prebuilt = "BERTH_TEST_OCI"

// subject is an OCI runtime under attack.
type subject struct {
	name   string
	binary string // attacks get a copy
	// hidden is a mount that the runtime must not see, "" for none.
	hidden string
}

func berthOCI(t testing.TB) subject {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if path := os.Getenv(prebuilt); path != "" {
		return subject{name: "berth-oci", binary: path}
	}
	return subject{name: "berth-oci", binary: filepath.Join(testenv.Programs(t), "berth-oci")}
}

// peers are the other runtimes that are installed.
func peers() []subject {
	var list []subject
	for _, name := range []string{"runc", "crun"} {
		binary, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		c := subject{name: name, binary: binary}
		// crun 1.8 refuses the hybrid layout of cgroups.
		if _, err := os.Stat("/sys/fs/cgroup/unified"); err == nil && name == "crun" {
			c.hidden = "/sys/fs/cgroup/unified"
		}
		list = append(list, c)
	}
	return list
}

// version is what the runtime says of itself.
func (c subject) version() string {
	out, err := exec.Command(c.binary, "--version").Output()
	if err != nil {
		return c.name
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.Replace(line, "version ", "", 1)
}

// command is the command line of a copy of the runtime.
func (c subject) command(binary string, args ...string) []string {
	if c.hidden == "" {
		return append([]string{binary}, args...)
	}
	return append([]string{"unshare", "-m", "sh", "-c", "umount " + c.hidden + ` && exec "$0" "$@"`, binary}, args...)
}
