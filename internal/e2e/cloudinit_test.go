package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/testenv"
)

// cloudInitPackages make of a disk guest what clouds call an image.
var cloudInitPackages = []string{"cloud-init", "locales", "openssh-server", "sudo"}

// cloudInit boots Debian with cloud-init, which does what the user's data and keys ask for.
func cloudInit(t *testing.T, w *world, _ api.Kind) {
	w.Berth(t, "image", "import", "--agent", debianDisk(t, cloudInitPackages...), "disk/cloud")
	w.later(t, "image", "rm", "disk/cloud")
	dir := testenv.Dir(t)
	data, key := filepath.Join(dir, "user-data"), filepath.Join(dir, "key")
	testenv.Shell(t, w.Machine, "ssh-keygen -q -t ed25519 -N '' -f "+key)
	if err := os.WriteFile(data, []byte("#cloud-config\nhostname: cargo\nlocale: C.UTF-8\nwrite_files: [{path: /etc/motd, content: loaded}]\nruncmd: ['echo ran >/var/tmp/ran']\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.start(t, api.VM, "box", "--memory", "512m", "--user-data", data, "--ssh-key", key+".pub", "disk/cloud")
	testenv.Eventually(t, 8*time.Minute, func() error {
		if r := w.Try(t.Context(), "exec", "box", "test", "-e", "/run/cloud-init/result.json"); r.Exit != 0 {
			return fmt.Errorf("cloud-init is not done: %s", r)
		}
		return nil
	})
	expect(t, "what it did", w.Try(t.Context(), "exec", "box", "sh", "-c", "hostname; cat /etc/motd; echo; cat /var/tmp/ran"), 0, "cargo\nloaded\nran\n")
	if said := w.Berth(t, "exec", "box", "cat", "/run/cloud-init/result.json"); !strings.Contains(said, `"errors": []`) {
		t.Errorf("it had errors: %s", said)
	}
	address, _, _ := strings.Cut(w.field(t, "box", "(index .Status.Interfaces 0).Address"), "/")
	login := "ssh -q -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -i " + key + " debian@" + address
	if said := testenv.Shell(t, w.Machine, login+" 'id -un; sudo -n id -un'"); said != "debian\nroot" {
		t.Errorf("who logs in by the key is %q", said)
	}
}
