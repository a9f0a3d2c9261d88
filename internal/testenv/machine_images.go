package testenv

import (
	"context"
	"path/filepath"
	"strings"
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

// DebianArchive returns a tar archive of a minimal Debian with packages beyond it.
func DebianArchive(t testing.TB, packages ...string) string {
	t.Helper()
	dir := cached(t, "debian", strings.Join(packages, " ")+" 1", func(ctx context.Context, dir string) error {
		return debootstrap(ctx, filepath.Join(dir, "root.tar"), packages, "--dpkgopt=force-unsafe-io")
	})
	return filepath.Join(dir, "root.tar")
}

// DebianSources returns a sources.list with which a Debian of DebianArchive has the
// packages that this host's has.
func DebianSources(t testing.TB) string {
	t.Helper()
	sources, err := debianSources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(sources, "\n") + "\n"
}

// Emulator returns QEMU's static program that runs programs of another machine, as uname
// calls it. It is taken out of Debian's package, which would register it on this host.
func Emulator(t testing.TB, machine string) string {
	t.Helper()
	name := "qemu-" + machine + "-static"
	dir := cached(t, "emulator", machine+" 1", func(ctx context.Context, dir string) error {
		_, err := run(ctx, dir, "sh", "-ec", "apt-get download qemu-user-static && dpkg-deb --fsys-tarfile *.deb | tar -x --strip-components 3 ./usr/bin/"+name+" && rm *.deb")
		return err
	})
	return filepath.Join(dir, name)
}
