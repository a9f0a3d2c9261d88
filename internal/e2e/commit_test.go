package e2e

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/testenv"
)

// commitScenarios make images of instances.
var commitScenarios = []scenario{
	{"commit", localOnly, both, commits},
	{"commit at rest", []place{local, user}, both, commitsAtRest},
	{"commit at rest, killed", localOnly, nil, commitKilled},
	{"commit refused", localOnly, both, commitRefused},
}

// work changes a root filesystem in every way that a layer has words for.
const work = `set -e
	echo kept >/etc/kept; chown 5:6 /etc/kept; chmod 640 /etc/kept; ln /etc/kept /twice
	mkdir /opt; mkfifo /opt/pipe; ln -s /etc/kept /opt/link
	rm /bin/vi; rm -r /root; mkdir /root; echo new >/root/file`

// sees shows what work has left, from an image made of it.
const sees = `ls -ln /etc/kept /twice | awk '{print $1,$2,$3,$4}'; cat /twice; test -p /opt/pipe; readlink /opt/link; ls /bin/vi 2>&1; ls /root`

const seen = "-rw-r----- 2 5 6\n-rw-r----- 2 5 6\nkept\n/etc/kept\nls: /bin/vi: No such file or directory\nfile\n"

// commits makes an image of a running instance and runs that as either kind.
func commits(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "box", "-e", "COLOR=blue", "base", "sh", "-c", work+"; echo done; sleep 600")
	w.logged(t, "box", "done")
	diff := "\n" + w.Berth(t, "diff", "box") + "\n"
	for _, line := range []string{"C /etc", "A /etc/kept", "A /opt/link", "D /bin/vi", "C /root", "A /root/file"} {
		if !strings.Contains(diff, "\n"+line+"\n") {
			t.Errorf("diff lacks %q:\n%s", line, diff)
		}
	}
	if strings.Contains(diff, "/etc/hosts") {
		t.Errorf("diff names what every run is given:\n%s", diff)
	}
	if name := w.Berth(t, "commit", "-m", "what was done", "-a", "somebody", "box", "made"); name != "made:latest" {
		t.Errorf("commit says %q", name)
	}
	w.later(t, "image", "rm", "made")
	expect(t, "it runs on", w.Try(t.Context(), "exec", "box", "sh", "-c", "echo more >/more; cat /more"), 0, "more\n")
	for _, k := range both {
		expect(t, "as a "+string(k), w.Try(t.Context(), run(k, "--rm", "made", "sh", "-c", sees+"; echo $COLOR")...), 0, seen+"blue\n")
	}
	history := w.Berth(t, "image", "history", "--format", "{{.By}}|{{.Comment}}|{{.Author}}", "made")
	if first, _, _ := strings.Cut(history, "\n"); first != "berth commit of box|what was done|somebody" {
		t.Errorf("history begins with %q", first)
	}
}

// commitsAtRest makes images of an instance that has ended, and of one that never ran.
func commitsAtRest(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "box", "base", "sh", "-c", work)
	w.Berth(t, "wait", "box")
	w.Berth(t, "commit", "box", "made:one")
	w.later(t, "image", "rm", "made:one")
	expect(t, "run", w.Try(t.Context(), run(kind, "--rm", "made:one", "sh", "-c", sees)...), 0, seen)
	w.Berth(t, "create", "--name", "idle", "made:one", "cat", "/root/file")
	t.Cleanup(func() { w.remove(t, "idle") })
	if diff := w.Berth(t, "diff", "idle"); diff != "" {
		t.Errorf("one that never ran has changed:\n%s", diff)
	}
	w.Berth(t, "commit", "idle", "made:two")
	w.later(t, "image", "rm", "made:two")
	expect(t, "the command is the instance's", w.Try(t.Context(), run(kind, "--rm", "made:two")...), 0, "new\n")
}

func commitRefused(t *testing.T, w *world, kind api.Kind) {
	refused(t, "no instance", w.Try(t.Context(), "commit", "nobody", "made"), 1, "nobody")
	w.start(t, kind, "box", "base", "sh", "-c", "echo x >/.wh.x; echo done; sleep 600")
	w.logged(t, "box", "done")
	refused(t, "a name that means a deletion", w.Try(t.Context(), "commit", "-q", "box", "made"), 1, "box", ".wh.x", "rename it")
	refused(t, "a bad name", w.Try(t.Context(), "commit", "-q", "box", "UPPER"), 1, "UPPER")
	refused(t, "no image was made", w.Try(t.Context(), "image", "inspect", "made"), 1, "made")
	expect(t, "it runs on", w.Try(t.Context(), "exec", "box", "sh", "-c", "rm /.wh.x && echo fine"), 0, "fine\n")
}

// commitKilled kills berthd while a VM at rest runs to be asked: the next one ends it, and
// nobody has seen it run.
func commitKilled(t *testing.T, w *world, _ api.Kind) {
	w.start(t, api.VM, "box", "base", "sh", "-c", "echo kept >/kept")
	w.Berth(t, "wait", "box")
	asked := make(chan testenv.Result, 1)
	go func() { asked <- w.Try(t.Context(), "diff", "box") }()
	var machine string
	testenv.Eventually(t, time.Minute, func() error {
		pids := w.PIDs(t, "qemu-system-x86_64")
		if len(pids) == 0 {
			return errors.New("no machine runs")
		}
		machine = pids[0]
		return nil
	})
	if state := w.field(t, "box", ".Status.State"); state != "exited" {
		t.Errorf("meanwhile it is %s", state)
	}
	w.Kill(t)
	if r := <-asked; r.Exit == 0 {
		t.Errorf("diff lived longer than berthd: %s", r)
	}
	w.Start(t)
	testenv.Eventually(t, time.Minute, func() error { return w.noProcess(t, machine) })
	if state := w.field(t, "box", ".Status.State"); state != "exited" {
		t.Errorf("it has become %s", state)
	}
	if diff := w.Berth(t, "diff", "box"); !strings.Contains(diff, "A /kept") {
		t.Errorf("diff is then %q", diff)
	}
	w.Berth(t, "start", "box")
	w.Berth(t, "wait", "box")
}
