package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/testenv"
)

// suiteModule is where the programs come from.
const suiteModule = "github.com/opencontainers/runtime-tools"

// patience bounds one program: the slowest waits 10 s twice for what does not come.
const patience = 90 * time.Second

// suite is the built programs in a directory of their own.
type suite struct {
	t    *testing.T
	dir  string // the working directory: the programs look for their files in it
	bin  string
	temp string // TMPDIR of the programs
}

// newSuite builds the programs. Only one suite runs on a machine at a time: its
// cgroups have fixed names.
func newSuite(t *testing.T) *suite {
	t.Helper()
	s := &suite{t: t, dir: testenv.Dir(t), temp: testenv.Dir(t)}
	s.bin = filepath.Join(s.dir, "bin")
	module := strings.TrimSpace(s.command("list", "-m", "-f", "{{.Dir}}", suiteModule))
	rootfs := "rootfs-" + runtime.GOARCH + ".tar.gz" // the name the programs ask for
	f, err := os.Open(filepath.Join(module, rootfs))
	if err != nil {
		t.Skip("the suite has no root filesystem for this processor: ", err)
	}
	t.Cleanup(func() { f.Close() })
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeCgroups(t) })
	// A peer's container in a user namespace must be able to reach its root filesystem.
	if err := os.Chmod(s.temp, 0o711); err != nil {
		t.Fatal(err)
	}
	s.command("build", "-ldflags", "-s -w", "-o", s.bin+"/", suiteModule+"/validation/...")
	s.command("build", "-ldflags", "-s -w", "-o", s.dir+"/", suiteModule+"/cmd/runtimetest")
	if err := os.Symlink(f.Name(), filepath.Join(s.dir, rootfs)); err != nil {
		t.Fatal(err)
	}
	return s
}

// removeCgroups removes the cgroups that the programs name. The container's own go with
// it; those above stay, as runtimes must let them, for others may be in there.
func removeCgroups(t *testing.T) {
	for _, name := range []string{"testdir/cgrouptest", "testdir", "cgrouptest"} {
		for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
			dirs, _ := filepath.Glob(pattern + name)
			for _, dir := range dirs {
				if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) { // a hierarchy may have two names
					t.Errorf("left by the suite: %v", err)
				}
			}
		}
	}
}

// command runs go with the pinned module.
func (s *suite) command(verb string, args ...string) string {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), "go", append([]string{verb, "-modfile=tools/conformance/go.mod"}, args...)...)
	cmd.Dir = testenv.Repository(s.t)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("go %s: %v: %s", verb, err, errs.Bytes())
	}
	return string(out)
}

// programs returns the names of the programs.
func (s *suite) programs() []string {
	s.t.Helper()
	entries, err := os.ReadDir(s.bin)
	if err != nil {
		s.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// candidate is a runtime under test: what to do, in shell, before its program runs
// with the arguments, and what the programs of the suite are run by.
type candidate struct {
	name, prepare, program string
	under                  []string
}

// result is what one program of the suite said.
type result struct {
	program    string
	ok, failed []string // the cases
}

// run runs all programs with a runtime whose state is below root. Those that share
// cgroups run one after another, the others beside them.
func (s *suite) run(c candidate, root string) []result {
	s.t.Helper()
	names := s.programs()
	results := make([]result, len(names))
	shared, others := make(chan int, len(names)), make(chan int, len(names))
	for i, name := range names {
		if usesCgroups(name) {
			shared <- i
		} else {
			others <- i
		}
	}
	close(shared)
	close(others)
	var wg sync.WaitGroup
	for _, queue := range []chan int{shared, others, others, others, others} {
		wg.Go(func() {
			for i := range queue {
				results[i] = s.program(names[i], c, root)
			}
		})
	}
	wg.Wait()
	return results
}

// usesCgroups reports whether a program looks at cgroups, which it knows as v1 alone.
func usesCgroups(program string) bool {
	return strings.HasPrefix(program, "linux_cgroups_") || strings.HasPrefix(program, "delete_")
}

// program runs one program with a runtime whose state is below root.
func (s *suite) program(name string, c candidate, root string) result {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	wrapper := filepath.Join(s.dir, c.name+"-"+name)
	script := fmt.Sprintf("#!/bin/sh\n%s\nexec %s --root %s \"$@\"\n", c.prepare, c.program, root)
	if err := os.WriteFile(wrapper, []byte(script), 0o755); err != nil {
		return result{program: name, failed: []string{err.Error()}}
	}
	argv := append(slices.Clone(c.under), filepath.Join(s.bin, name))
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "RUNTIME="+wrapper, "TMPDIR="+s.temp)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	return parse(name, out.String(), errs.String(), err)
}

// parse reads the cases out of a program's output.
func parse(name, out, errs string, err error) result {
	r := result{program: name}
	diagnosis := ""
	for line := range strings.SplitSeq(out, "\n") {
		if text, ok := strings.CutPrefix(line, "ok "); ok {
			r.ok = append(r.ok, caseName(text))
		} else if text, ok := strings.CutPrefix(line, "not ok "); ok {
			r.failed = append(r.failed, caseName(text))
		} else if text, ok := strings.CutPrefix(strings.TrimSpace(line), `"error": "`); ok && diagnosis == "" {
			diagnosis, _, _ = strings.Cut(text, `\n`)
		}
	}
	switch {
	case err != nil:
		last := strings.TrimSpace(errs)
		last, _, _ = strings.Cut(last[strings.LastIndexByte(last, '\n')+1:], "Refer to")
		r.failed = append(r.failed, fmt.Sprintf("ends with %v: %s", err, last))
	case len(r.ok)+len(r.failed) > 0: // a diagnosis belongs to one of them
	case diagnosis != "":
		r.failed = append(r.failed, strings.TrimRight(diagnosis, `",`))
	default:
		r.ok = append(r.ok, "ends without an error")
	}
	return r
}

// caseName takes the number off a case: "12 - mounts found # SKIP" is "mounts found".
func caseName(text string) string {
	if _, name, ok := strings.Cut(text, " - "); ok {
		text = name
	}
	name, _, _ := strings.Cut(text, " # ")
	return strings.TrimSpace(name)
}
