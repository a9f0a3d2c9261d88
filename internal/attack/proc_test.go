package attack

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// procAttacks lead the runtime's own writes to /proc elsewhere, so that a label
// or a setting is lost, or lands where it does harm.
var procAttacks = []attack{
	{"/proc is a link", "CVE-2019-19921, CVE-2023-27561, CVE-2023-28642", false, func(a *testbed) verdict { return a.filesystemIsLink("proc") }},
	{"/sys is a link", "CVE-2023-28642", false, func(a *testbed) verdict { return a.filesystemIsLink("sys") }},
	{"a mount inside /proc", "CVE-2019-16884, CVE-2025-52881", false, mountInProc},
	{"a mount on a link into /proc", "CVE-2019-16884, CVE-2025-52881", false, mountOnLinkToProc},
	{"shared mounts swapped while containers start", "CVE-2025-52881, CVE-2019-19921", true, procSwapped},
}

// filesystemIsLink leads /proc or /sys to a directory that the image filled.
func (a *testbed) filesystemIsLink(name string) verdict {
	a.must(os.RemoveAll(a.rootfs(name)))
	a.must(os.MkdirAll(a.rootfs("evil/self/attr/apparmor"), 0o755))
	a.must(os.MkdirAll(a.rootfs("evil/sys/net/ipv4"), 0o755))
	a.must(os.Symlink("/evil", a.rootfs(name)))
	a.spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_default_ttl": "77"}
	a.shell("echo started; mount | grep /evil")
	r := a.run()
	switch {
	case !r.started():
		return refusal(r.stderr)
	case strings.Contains(r.stdout, "on /evil"):
		return fall("the runtime followed the link: %q", r.stdout)
	}
	return held()
}

// hidden are files of /proc that the kernel or the runtime rely on.
var hiddenTargets = []string{"/proc/self", "/proc/self/attr", "/proc/1/attr/apparmor/exec", "/proc/sys/kernel", "/proc/self/exe", "/proc/thread-self/attr/exec"}

func mountInProc(a *testbed) verdict {
	a.shell("echo started; mount | grep ' /proc/'")
	var tries []verdict
	for _, dest := range hiddenTargets {
		for _, m := range a.coverings(dest) {
			tries = append(tries, a.judgeCovering(m))
		}
	}
	return worst(tries)
}

func mountOnLinkToProc(a *testbed) verdict {
	a.shell("echo started; mount | grep ' /proc/'")
	var tries []verdict
	for _, target := range hiddenTargets {
		_ = os.Remove(a.rootfs("data"))
		a.must(os.Symlink(target, a.rootfs("data")))
		for _, m := range a.coverings("/data") {
			tries = append(tries, a.judgeCovering(m))
		}
	}
	return worst(tries)
}

// coverings are mounts that would hide what is at dest.
func (a *testbed) coverings(dest string) []specs.Mount {
	return []specs.Mount{
		{Destination: dest, Type: "tmpfs", Source: "tmpfs"},
		{Destination: dest, Type: "bind", Source: a.victim, Options: []string{"bind"}},
		{Destination: dest, Type: "bind", Source: filepath.Join(a.victim, "secret"), Options: []string{"bind"}},
	}
}

// judgeCovering runs with one more mount.
func (a *testbed) judgeCovering(m specs.Mount) verdict {
	kept := a.spec.Mounts
	defer func() { a.spec.Mounts = kept }()
	a.spec.Mounts = append(slices.Clip(kept), m)
	r := a.run()
	switch {
	case !r.started():
		return refusal(r.stderr)
	case strings.Contains(r.stdout, " on /proc/"):
		return fall("a %s at %s became %q", m.Type, m.Destination, lastLine(r.stdout))
	}
	return held()
}

// procSwapped races with a directory that containers share, and compares what
// they got with what was asked for: capabilities, seccomp, a sysctl.
func procSwapped(a *testbed) verdict {
	shared := filepath.Join(a.dir, "shared")
	a.must(os.MkdirAll(filepath.Join(shared, "a"), 0o755))
	a.must(os.Symlink("/proc/self/attr", filepath.Join(shared, "b")))
	a.bind(shared, "/vol")
	a.spec.Mounts = append(a.spec.Mounts, specs.Mount{Destination: "/vol/a", Type: "bind", Source: a.victim, Options: []string{"bind"}})
	a.spec.Process.NoNewPrivileges = true
	a.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}, Permitted: []string{"CAP_KILL"}, Effective: []string{"CAP_KILL"}}
	a.spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"mknod"}, Action: specs.ActErrno}}}
	a.spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_default_ttl": "77"}
	a.shell("echo started; mount | grep ' /proc/'; cat /proc/self/status /proc/sys/net/ipv4/ip_default_ttl")
	defer exchange(filepath.Join(shared, "a"), filepath.Join(shared, "b"))()
	var tries []verdict
	for range a.rounds {
		r := a.run()
		switch {
		case !r.started():
			tries = append(tries, refusal(r.stderr))
		case strings.Contains(r.stdout, " on /proc/"):
			tries = append(tries, fall("a mount inside /proc: %q", strings.SplitN(r.stdout, "\n", 3)[1]))
		case field(r.stdout, "CapBnd") != "0000000000000020" || field(r.stdout, "CapEff") != "0000000000000020" ||
			field(r.stdout, "Seccomp") != "2" || field(r.stdout, "NoNewPrivs") != "1" || !strings.HasSuffix(r.stdout, "\n77\n"):
			tries = append(tries, fall("it is not confined as asked for: %q", r.stdout))
		default:
			tries = append(tries, held())
		}
	}
	return worst(tries)
}
