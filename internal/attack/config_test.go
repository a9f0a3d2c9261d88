package attack

import (
	"archive/tar"
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/berthcloud/berth/internal/testenv"
)

// configAttacks let an image's config and files say what reaches the host, or
// holds up those who read it.
func configAttacks() []engineAttack {
	return []engineAttack{
		{"user ids that wrap", "CVE-2024-40635", userWraps},
		{"accounts that are links, pipes and without an end", "CVE-2024-9676", accounts},
		{"an environment without an end", "", environment},
		{"working directory of the image", "CVE-2024-21626", workingDirectory},
		{"volumes with ..", "CVE-2022-23648", volumes},
		{"control characters", "", controlCharacters},
		{"entrypoint of the image is the runtime", "CVE-2019-5736", entrypoint},
	}
}

// judgeRun says what a hostile container came to: it must not be root where it
// asked for somebody else, nor read the host.
func (e *engine) judgeRun(r testenv.Result) verdict {
	switch {
	case r.Err != nil:
		return fall("it does not end: %v", r.Err)
	case strings.Contains(r.Stdout, secret):
		return fall("it read the host's file")
	case strings.Contains(r.Stdout, "(unreachable)"):
		return fall("its working directory is outside of its root: %s", r.Stdout)
	case strings.ContainsFunc(r.Stderr, isControl):
		return fall("control characters reach the terminal: %q", r.Stderr)
	case r.Exit != 0:
		return refusal(r.Stderr)
	}
	return held()
}

func userWraps(e *engine) verdict {
	var tries []verdict
	judge := func(user string, r testenv.Result) verdict {
		if strings.HasPrefix(r.Stdout, "0\n") || strings.HasSuffix(r.Stdout, "\n0\n") {
			return fall("user %s became root: %q", user, r.Stdout)
		}
		return e.judgeRun(r)
	}
	for _, user := range []string{"4294967296", "4294967295", "2147483648", "-1", "1:4294967296", "18446744073709551616", "+0x0:1"} {
		tries = append(tries, judge(user, e.run("-u", user, "base", "sh", "-c", "id -u; id -g")),
			e.hostile(v1.Config{User: user, Cmd: []string{"sh", "-c", "id -u; id -g"}}, nil, func(image string) verdict { return judge(user, e.run(image)) }))
	}
	return worst(tries)
}

func accounts(e *engine) verdict {
	up := strings.Repeat("../", 20)
	var tries []verdict
	for _, passwd := range []tar.Header{
		{Typeflag: tar.TypeSymlink, Linkname: e.victim + "/secret"},
		{Typeflag: tar.TypeSymlink, Linkname: up + "etc/passwd"},
		{Typeflag: tar.TypeSymlink, Linkname: "/proc/self/environ"},
		{Typeflag: tar.TypeSymlink, Linkname: "/dev/zero"},
		{Typeflag: tar.TypeSymlink, Linkname: "/proc/kmsg"},
		{Typeflag: tar.TypeFifo, Mode: 0o666},
		{Typeflag: tar.TypeDir, Mode: 0o755},
		{Typeflag: tar.TypeReg, Mode: 0o644, Size: 8 << 20},
	} {
		passwd.Name = "etc/passwd"
		group := passwd
		group.Name = "etc/group"
		tries = append(tries, e.hostile(v1.Config{User: "daemon:daemon", Cmd: []string{"id"}}, []tar.Header{passwd, group},
			func(image string) verdict { return e.judgeRun(e.run(image)) }))
	}
	return worst(tries)
}

func environment(e *engine) verdict {
	many := make([]string, 20_000)
	for i := range many {
		many[i] = fmt.Sprintf("V%d=%s", i, strings.Repeat("x", 1000))
	}
	var tries []verdict
	for _, env := range [][]string{many, {"BIG=" + strings.Repeat("x", 200<<10)}, many[:3000], {"", "=", "=x", "NOVALUE", "A=\x00B"}} {
		tries = append(tries, e.hostile(v1.Config{Env: env, Cmd: []string{"id"}}, nil, func(image string) verdict { return e.judgeRun(e.run(image)) }))
	}
	return worst(tries)
}

func workingDirectory(e *engine) verdict {
	look := []string{"sh", "-c", "cat ./../../../../../../../.." + e.victim + "/secret; readlink /proc/self/cwd"}
	var tries []verdict
	for _, dir := range []string{"../../..", "/../../..", "/proc/self/fd/3", "/proc/self/fd/7/../../..", "/proc/1/cwd/../../..", "/link", "/bin/sh"} {
		tries = append(tries, e.hostile(v1.Config{WorkingDir: dir, Cmd: look},
			[]tar.Header{{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "/proc/self/fd/8/../../.."}},
			func(image string) verdict { return e.judgeRun(e.run(image)) }))
	}
	return worst(tries)
}

func volumes(e *engine) verdict {
	var tries []verdict
	for _, path := range []string{"/../../.." + e.victim, e.victim + "/../..", "relative", "/link/in", "/"} {
		tries = append(tries, e.hostile(v1.Config{Volumes: map[string]struct{}{path: {}}, Cmd: []string{"sh", "-c", "cat " + path + "/secret"}},
			[]tar.Header{{Name: "link", Typeflag: tar.TypeSymlink, Linkname: e.victim}},
			func(image string) verdict { return e.judgeRun(e.run(image)) }))
	}
	return worst(tries)
}

// controlCharacters come to the terminals of those who look.
func controlCharacters(e *engine) verdict {
	const evil = "a\x1b]0;owned\x07\x1b[2J\u009b2J\nb\r\x7f"
	config := v1.Config{
		User: evil, Env: []string{"E=" + evil}, Entrypoint: []string{"/bin/" + evil}, Cmd: []string{evil}, WorkingDir: "/" + evil,
		Labels: map[string]string{evil: evil}, StopSignal: evil, Volumes: map[string]struct{}{"/" + evil: {}},
		ExposedPorts: map[string]struct{}{evil: {}}, Healthcheck: &v1.HealthConfig{Test: []string{"CMD", evil}},
	}
	var tries []verdict
	for _, edit := range []func(c v1.Config) v1.Config{
		func(c v1.Config) v1.Config { return c },
		func(c v1.Config) v1.Config { return v1.Config{Entrypoint: c.Entrypoint} },
		func(c v1.Config) v1.Config { return v1.Config{User: evil, Cmd: []string{"id"}} },
		func(c v1.Config) v1.Config { return v1.Config{WorkingDir: "/" + evil, Cmd: []string{"id"}} },
		func(c v1.Config) v1.Config { return v1.Config{StopSignal: evil, Cmd: []string{"id"}} },
		func(c v1.Config) v1.Config { return v1.Config{ExposedPorts: c.ExposedPorts, Cmd: []string{"id"}} },
		func(c v1.Config) v1.Config { return v1.Config{Volumes: c.Volumes, Cmd: []string{"id"}} },
		func(c v1.Config) v1.Config {
			return v1.Config{Labels: c.Labels, Env: c.Env, Cmd: []string{"sh", "-c", "sleep 1; true", evil}}
		},
	} {
		tries = append(tries, e.hostile(edit(config), nil, e.lookAround))
	}
	return worst(tries)
}

// lookAround does with an image what people do, and wants clean text.
func (e *engine) lookAround(image string) verdict {
	defer e.Try(e.t.Context(), "rm", "-f", "-v", "evil")
	tries := []verdict{e.judgeRun(e.run(image))}
	for _, args := range [][]string{
		{"run", "-d", "--name", "evil", "--network", "none", image}, {"ps", "-a"}, {"ps", "-a", "--no-trunc"}, {"images"}, {"inspect", "evil"}, {"top", "evil"},
		{"image", "inspect", image}, {"events", "--since", "1m", "--until", "0s"}, {"stop", "-t", "0", "evil"}, {"wait", "evil"},
	} {
		if r := e.Try(e.t.Context(), args...); strings.ContainsFunc(r.Stdout+r.Stderr, isControl) {
			tries = append(tries, fall("berth %s writes control characters to the terminal: %q", strings.Join(args, " "), r.Stdout+r.Stderr))
		}
	}
	return worst(tries)
}

func entrypoint(e *engine) verdict {
	config := v1.Config{Entrypoint: []string{"/bin/trojan", "-c", overwrite}}
	files := []tar.Header{{Name: "bin/trojan", Typeflag: tar.TypeSymlink, Linkname: "/proc/self/exe"}}
	return e.hostile(config, files, func(image string) verdict { return e.judgeRun(e.run(image)) })
}
