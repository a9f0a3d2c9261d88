package attack

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/berthcloud/berth/internal/testenv"
)

// exhaustionAttacks take all there is of something. The container that tries must
// fail alone, in a state that says why.
func exhaustionAttacks() []engineAttack {
	return []engineAttack{
		{"processes", "", processes},
		{"memory", "", memory},
		{"memory by files", "", memoryByFiles},
		{"inodes", "", inodes},
		{"open files", "", openFiles},
		{"the log's disk", "", logDisk},
		{"commands that nobody waits for", "CVE-2025-64329, CVE-2022-23471", abandoned},
	}
}

// attacker runs a line of shell in the background, under limits, and returns a
// function that removes it.
func (e *engine) attacker(script string, limits ...string) (remove func()) {
	args := append([]string{"run", "-d", "--name", "attacker", "--network", "none"}, limits...)
	e.Berth(e.t, append(args, "base", "sh", "-c", script)...)
	return func() { e.Berth(e.t, "rm", "-f", "-v", "attacker") }
}

// disturbed tells whether the neighbor or the daemon is held up.
func (e *engine) disturbed() (verdict, bool) {
	r := e.Try(e.t.Context(), "exec", "neighbor", "echo", "alive")
	if r.Stdout != "alive\n" {
		return fall("the neighbor does not answer: %s", r), true
	}
	return verdict{}, false
}

// processes is a fork bomb: each of its processes starts others for ever. awk goes on
// where it cannot fork; a shell would end, and all of them at once end the bomb.
func processes(e *engine) verdict {
	const limit = 100
	defer e.attacker(`echo 'BEGIN { while (1) system("awk -f /bomb 2>/dev/null &") }' >/bomb; exec awk -f /bomb 2>/dev/null`, "--pids-limit", strconv.Itoa(limit))()
	testenv.Eventually(e.t, patience, func() error { // the bomb has gone off
		if n := strings.Count(e.Try(e.t.Context(), "top", "attacker").Stdout, "\n") - 1; n < limit/2 {
			return fmt.Errorf("%d processes", n)
		}
		return nil
	})
	for range 10 {
		if v, bad := e.disturbed(); bad {
			return v
		}
		if n := strings.Count(e.Try(e.t.Context(), "top", "attacker").Stdout, "\n") - 1; n > limit {
			return fall("%d processes under a limit of %d", n, limit)
		}
	}
	if state := e.Berth(e.t, "inspect", "--format", "{{.Status.State}}", "attacker"); state != "running" {
		return fall("the attacker is %s", state)
	}
	return held()
}

// killed is the verdict about an attacker whom the kernel ended for its memory.
func (e *engine) killed() verdict {
	code := e.Berth(e.t, "wait", "attacker")
	if v, bad := e.disturbed(); bad {
		return v
	}
	if oom := e.Berth(e.t, "inspect", "--format", "{{.Status.OOM}}", "attacker"); code != "137" || oom != "true" {
		return fall("exit code %s, out of memory: %s", code, oom)
	}
	return held()
}

func memory(e *engine) verdict {
	defer e.attacker("exec tail /dev/zero", "-m", "32m")()
	return e.killed()
}

// memoryByFiles fills filesystems that live in memory: they count as the
// container's.
func memoryByFiles(e *engine) verdict {
	defer e.attacker("cat /dev/zero >/dev/shm/a; cat /dev/zero >/dev/a; exec tail /dev/zero", "-m", "32m")()
	return e.killed()
}

// inodes makes empty files where they cost the kernel's memory and no space.
func inodes(e *engine) verdict {
	const most = 40_000
	script := fmt.Sprintf(`for d in /scratch /dev /dev/shm; do cd $d; i=0; while [ $i -lt %d ] && true >f$i; do i=$((i+1)); done 2>/dev/null; echo $d $i; done`, most)
	r := e.run("--tmpfs", "/scratch:size=1m", "base", "sh", "-c", script)
	if v, bad := e.disturbed(); bad {
		return v
	}
	for line := range strings.Lines(r.Stdout) {
		dir, count, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.Atoi(count); err != nil || n >= most {
			return fall("%s takes %s empty files and more", dir, count)
		}
	}
	if strings.Count(r.Stdout, "\n") != 3 {
		return fall("it ended early: %s", r)
	}
	return held()
}

// openFiles opens the same file again and again, as often as it may and in as
// many processes as it may.
func openFiles(e *engine) verdict {
	open := "tail -f $(yes /bin/busybox | head -n 3000) >/dev/null"
	r := e.run("--ulimit", "nofile=1024:1024", "base", "sh", "-c", strings.Replace(open, "-f", "-n 0", 1))
	if !strings.Contains(r.Stderr, "Too many open files") {
		return fall("3000 files under a limit of 1024: %s", r)
	}
	defer e.attacker("while :; do "+open+" & done 2>/dev/null", "-m", "64m", "--pids-limit", "500")()
	for range 10 {
		if v, bad := e.disturbed(); bad {
			return v
		}
	}
	return held()
}

// logDisk writes more than logs may keep.
func logDisk(e *engine) verdict {
	defer e.attacker("yes 0123456789012345678901234567890123456789012345678901234567890123456789 | head -c 100000000")()
	if code := e.Berth(e.t, "wait", "attacker"); code != "0" {
		return fall("it ended early with exit code %s", code)
	}
	if v, bad := e.disturbed(); bad {
		return v
	}
	var size int64
	_ = filepath.WalkDir(e.Dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.Contains(path, "log") {
			if info, err := d.Info(); err == nil {
				size += info.Size()
			}
		}
		return nil
	})
	if size > 60<<20 {
		return fall("100 MB of output keep %d bytes of disk", size)
	}
	return held()
}

// abandoned starts commands whose clients die at once. Each would hold a process,
// descriptors and goroutines for ever.
func abandoned(e *engine) verdict {
	const marker = "sleep 7777"
	before := e.descriptors()
	for range 50 {
		ctx, cancel := context.WithTimeout(e.t.Context(), 50*time.Millisecond)
		e.Try(ctx, append([]string{"exec", "neighbor"}, strings.Fields(marker)...)...)
		cancel()
	}
	testenv.Eventually(e.t, patience, func() error {
		top, now := e.Berth(e.t, "top", "neighbor"), e.descriptors()
		if now > before || strings.Contains(top, marker) {
			return fmt.Errorf("%d descriptors, before %d; %s", now, before, top)
		}
		return nil
	})
	return held()
}

// descriptors counts those of the daemon and its keeper.
func (e *engine) descriptors() (n int) {
	for _, pid := range append(e.PIDs(e.t, "berthd"), e.PIDs(e.t, "berth-keeper")...) {
		entries, _ := os.ReadDir("/proc/" + pid + "/fd") // none of a child that has gone since
		n += len(entries)
	}
	return n
}
