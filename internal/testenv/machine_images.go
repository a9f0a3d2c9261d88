package testenv

import (
	"context"
	"path/filepath"
	"testing"
)

// slim takes out of a Debian what no boot needs: the hosts of a rack read the
// image with an emulated processor.
const slim = `--customize-hook=cd "$1" && rm -rf usr/lib/*/perl* usr/share/perl* usr/bin/perl* usr/bin/*perl* ` +
	`usr/lib/*/libperl* usr/lib/*/gconv usr/share/zoneinfo usr/share/info var/lib/apt var/lib/dpkg/info var/cache/*`

// MachineArchive returns a tar archive of a small Debian that boots as a machine,
// with the init of a package, as in systemd-sysv or sysvinit-core.
func MachineArchive(t testing.TB, init string) string {
	t.Helper()
	dir := cached(t, "machine", init+" 1", func(ctx context.Context, dir string) error {
		return debootstrap(ctx, filepath.Join(dir, "root.tar"), []string{init, "dbus"}, slim)
	})
	return filepath.Join(dir, "root.tar")
}
