package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/berthcloud/berth/api"
)

// suites are Debian's code names by version.
var suites = map[string]string{
	"11": "bullseye", "12": "bookworm", "13": "trixie", "14": "forky",
	"latest": "trixie", "stable": "trixie",
}

var suiteName = regexp.MustCompile(`^[a-z]{3,20}$`)

// extras returns the packages that an image has beyond a minimal Debian, by its
// name: debian-init and debian-sysvinit boot as machines, with systemd or sysvinit.
func extras(name string) ([]string, bool) {
	machine := []string{"dbus", "iproute2", "login", "procps"}
	switch name {
	case "debian":
		return nil, true
	case "debian-init":
		return append(machine, "systemd-sysv"), true
	case "debian-sysvinit":
		return append(machine, "sysvinit-core"), true
	}
	return nil, false
}

// BootstrapOptions say what to make of a distribution's packages.
type BootstrapOptions struct {
	Name     string   // what is made, as in debian:12
	Tag      string   // what to call it; "" for Name
	Include  []string // packages beyond those of Name
	Progress Progress // may be nil
}

// tag returns the name of what is made in full.
func (o BootstrapOptions) tag() (string, error) {
	for _, p := range o.Include {
		if !packageName.MatchString(p) {
			return "", api.E("", api.Invalid, "", fmt.Errorf("%q is no name of a Debian package", p))
		}
	}
	return tagName(cmp.Or(o.Tag, o.Name))
}

// packageName is what Debian's policy allows (5.6.1), with an architecture.
var packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{1,127}(:[a-z0-9]{1,32})?$`)

// Bootstrap makes a standard image, as debian:12 or debian-init,
// from the distribution's packages, with mmdebstrap and the mirror, keys and proxy that
// the host's apt is configured for. Nothing of that configuration stays in the
// image. It returns the image's name.
func (s *Store) Bootstrap(ctx context.Context, o BootstrapOptions) (string, error) {
	const op = "bootstrap"
	name, progress := o.Name, o.Progress
	suite, packages, err := suiteOf(name)
	if err != nil {
		return "", api.E(op, "", name, err)
	}
	full, err := o.tag()
	if err != nil {
		return "", api.E(op, "", name, err)
	}
	packages = append(packages, o.Include...)
	sources, err := hostSources(ctx, suite)
	if err != nil {
		return "", api.E(op, "", name, err)
	}
	aptopts, err := hostProxy(ctx)
	if err != nil {
		return "", api.E(op, "", name, err)
	}
	dir, err := os.MkdirTemp(filepath.Join(s.root, "tmp"), "bootstrap-")
	if err != nil {
		return "", api.E(op, "", name, diskFull(err))
	}
	defer os.RemoveAll(dir)
	list := filepath.Join(dir, "sources.list")
	if err := os.WriteFile(list, []byte(sources), 0o600); err != nil {
		return "", api.E(op, "", name, diskFull(err))
	}
	c := newCommand(ctx, progress, dir, "mmdebstrap", bootstrapArgs(suite, packages, list, aptopts)...)
	c.Env = append(c.Env, "TMPDIR="+dir)
	// Its mounts of /proc and /dev go when it goes, however it ends.
	c.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	var names []string
	err = c.stream(ctx, func(r io.Reader) (err error) {
		names, err = s.importArchive(ctx, r, ImportOptions{Name: full, Progress: progress, Config: api.ImageConfig{Command: []string{"bash"}}}, false)
		return err
	})
	if err != nil {
		return "", api.E(op, "", name, err)
	}
	return names[0], nil
}

// suiteOf returns the suite that an image's name means, and the packages beyond a
// minimal one.
func suiteOf(name string) (suite string, packages []string, err error) {
	full, err := tagName(name)
	if err != nil {
		return "", nil, err
	}
	repository, tag, _ := strings.Cut(Familiar(full), ":")
	packages, ok := extras(repository)
	if !ok {
		return "", nil, api.E("", api.Unsupported, "", errors.New("only Debian can be bootstrapped, as in debian:12, debian-init or debian-sysvinit; get other images with berth pull or berth image import"))
	}
	tag = strings.TrimSuffix(tag, "-slim")
	if suite, ok := suites[tag]; ok {
		return suite, packages, nil
	}
	if !suiteName.MatchString(tag) {
		return "", nil, api.E("", api.Invalid, "", fmt.Errorf("no Debian has the version %q; name one as in debian:12 or debian:bookworm", tag))
	}
	return tag, packages, nil
}

// consoleLogin has sysvinit ask for a login on the console: its own configuration
// does so on six virtual terminals, which a container has not.
const consoleLogin = `--customize-hook=if [ -f "$1/etc/inittab" ]; then ` +
	`sed -i "/getty/d" "$1/etc/inittab"; echo "co:2345:respawn:/sbin/getty --noclear console" >>"$1/etc/inittab"; fi`

// bootstrapArgs are mmdebstrap's arguments. What it copies from the host is
// taken out again.
func bootstrapArgs(suite string, packages []string, list string, aptopts []string) []string {
	args := []string{
		"--variant=minbase", "--mode=root", "--format=tar",
		`--customize-hook=rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap" "$1"/etc/apt/sources.list.d/*`,
		`--customize-hook=echo "# Add sources here: see sources.list(5)." > "$1/etc/apt/sources.list"`,
		`--customize-hook=: > "$1/etc/hostname"; : > "$1/etc/resolv.conf"`,
	}
	if len(packages) > 0 {
		args = append(args, "--include="+strings.Join(packages, ","), consoleLogin)
	}
	for _, o := range aptopts {
		args = append(args, "--aptopt="+o)
	}
	return append(args, suite, "-", list)
}

// source is a line of the host's apt sources.
type source struct{ uri, release, component, signedBy string }

const sourceFormat = "$(CREATED_BY)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(SIGNED_BY)"

// hostSources returns a sources.list with the host's sources for a suite. If
// the host has none for it, those of its own suite serve, under the other name.
func hostSources(ctx context.Context, suite string) (string, error) {
	out, err := newCommand(ctx, nil, "", "apt-get", "indextargets", "--format", sourceFormat).output(ctx, 4<<20)
	if err != nil {
		return "", err
	}
	host, err := hostSuite()
	if err != nil {
		return "", err
	}
	all := parseSources(out)
	for _, from := range []string{suite, host} {
		var lines []string
		for _, src := range all {
			rest, ok := strings.CutPrefix(src.release, from)
			if !ok || rest != "" && rest != "-updates" && rest != "-security" {
				continue
			}
			signed := ""
			if strings.HasPrefix(src.signedBy, "/") {
				signed = fmt.Sprintf("[signed-by=%s] ", src.signedBy)
			}
			lines = append(lines, fmt.Sprintf("deb %s%s %s %s\n", signed, src.uri, suite+rest, src.component))
		}
		slices.Sort(lines)
		if lines = slices.Compact(lines); len(lines) > 0 {
			return strings.Join(lines, ""), nil
		}
	}
	return "", api.E("", api.NotFound, "", fmt.Errorf("the host's apt has no source for Debian %s; add one to its sources and run apt-get update", suite))
}

func parseSources(out string) []source {
	var all []source
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSpace(line), "|")
		if len(f) != 5 || f[0] != "Packages" {
			continue
		}
		all = append(all, source{uri: f[1], release: f[2], component: f[3], signedBy: f[4]})
	}
	return all
}

// hostSuite returns the host's own suite, "none" if it is no Debian.
func hostSuite() (string, error) {
	b, err := os.ReadFile("/etc/os-release")
	if errors.Is(err, os.ErrNotExist) {
		return "none", nil
	}
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			return strings.Trim(v, `"`), nil
		}
	}
	return "none", nil
}

// hostProxy returns the host's apt settings for reaching its mirror.
func hostProxy(ctx context.Context) ([]string, error) {
	out, err := newCommand(ctx, nil, "", "apt-config", "dump").output(ctx, 4<<20)
	if err != nil {
		return nil, err
	}
	return proxyOptions(out), nil
}

func proxyOptions(dump string) []string {
	var opts []string
	for line := range strings.Lines(dump) {
		line = strings.TrimSpace(line)
		for _, prefix := range []string{"Acquire::http::", "Acquire::https::", "Acquire::Retries"} {
			if strings.HasPrefix(line, prefix) && !strings.HasSuffix(line, ` "";`) {
				opts = append(opts, strings.TrimSuffix(line, ";"))
			}
		}
	}
	return opts
}
