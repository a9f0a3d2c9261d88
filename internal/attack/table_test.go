package attack

import (
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// table makes the tests attack the peers too. It is a flag and not a variable of
// the environment so that nobody sets it by accident: peers do fall.
var table = flag.String("table", "", "attack all installed runtimes and write the table to this file")

// report collects what "make attacks" prints.
type report struct {
	runtimes, engine, exposure section
}

// section is a part of the report: a table, and what was said.
type section struct{ table, notes strings.Builder }

// TestTable carries every attack out and writes the table.
func TestTable(t *testing.T) {
	if *table == "" {
		t.Skip("make attacks asks for it")
	}
	var r report
	all := append([]subject{berthOCI(t)}, peers()...)
	t.Run("runtimes", func(t *testing.T) { r.attackRuntimes(t, all) })
	t.Run("engine", r.attackEngine)
	t.Run("defaults", r.compareDefaults)
	f, err := os.Create(*table)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r.write(f, all)
}

// attackRuntimes attacks the runtimes, one attack after the other.
func (r *report) attackRuntimes(t *testing.T, all []subject) {
	s := &r.runtimes
	var names []string
	for _, rt := range all {
		names = append(names, rt.name)
	}
	s.row("attack", "past cases", names...)
	s.row("---", "---", slices.Repeat([]string{"---"}, len(all))...)
	for _, c := range classes() {
		s.row("**"+c.name+"**", "", make([]string, len(all))...)
		for _, k := range c.attacks {
			var outcomes []string
			for _, rt := range all {
				t.Run(strings.ReplaceAll(k.name, "/", "_")+" "+rt.name, func(t *testing.T) {
					v := k.against(t, rt)
					outcomes = append(outcomes, string(v.outcome))
					s.note(k.name+", "+rt.name, v)
				})
			}
			s.row(k.name, k.cves, outcomes...)
		}
	}
}

// attackEngine attacks Berth from images and containers.
func (r *report) attackEngine(t *testing.T) {
	s, e := &r.engine, newEngine(t)
	s.row("attack", "past cases", "Berth")
	s.row("---", "---", "---")
	for _, c := range engineClasses() {
		s.row("**"+c.name+"**", "", "")
		for _, k := range c.attacks {
			t.Run(k.name, func(t *testing.T) {
				v := e.against(t, k)
				s.row(k.name, k.cves, string(v.outcome))
				s.note(k.name, v)
			})
		}
	}
}

// compareDefaults compares Berth's default container with dockerd's.
func (r *report) compareDefaults(t *testing.T) {
	s := &r.exposure
	ours, theirs, version := compareDefaults(t)
	s.row("a container can", "Berth", "docker "+version)
	s.row("---", "---", "---")
	for _, row := range []struct {
		what string
		of   func(reach) any
	}{
		{"use capabilities (effective set)", func(r reach) any { return r.Status["CapEff"] }},
		{"… over the host's objects", func(r reach) any { return yesNo(!r.UserNS) }},
		{"gain rights by executing a program", func(r reach) any { return yesNo(r.Status["NoNewPrivs"] != "1") }},
		{"open devices", func(r reach) any { return len(r.Devices) }},
		{"get an answer from system calls", func(r reach) any { return len(r.Syscalls) }},
		{"open files of /proc and /sys for reading", func(r reach) any { return len(r.Readable) }},
		{"open files of /proc and /sys for writing", func(r reach) any { return len(r.Writable) }},
	} {
		s.row(row.what, fmt.Sprint(row.of(ours)), fmt.Sprint(row.of(theirs)))
	}
	fmt.Fprintf(&s.notes, "- System calls that docker's profile has let in since that version: %s.\n", strings.Join(newer(beyond(ours.Syscalls, theirs.Syscalls)), ", "))
	cgroup := slices.DeleteFunc(beyond(ours.Readable, theirs.Readable), func(path string) bool { return !ownCgroup(path) })
	fmt.Fprintf(&s.notes, "- Its own cgroup of version 2, on a host that has both, read-only: %d files.\n", len(cgroup))
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func (s *section) row(first, second string, rest ...string) {
	fmt.Fprintf(&s.table, "| %s |\n", strings.Join(append([]string{first, second}, rest...), " | "))
}

// note says why an attack ended as it did, without the names of one run.
func (s *section) note(what string, v verdict) {
	if v.why != "" {
		fmt.Fprintf(&s.notes, "- %s: %s: `%s`\n", what, v.outcome, unnamed(v.why))
	}
}

// unnamed replaces what differs from run to run, and what Markdown would take
// amiss.
func unnamed(text string) string {
	words := strings.Fields(strings.ReplaceAll(text, "`", "'"))
	for i, w := range words {
		if at := strings.Index(w, os.TempDir()+"/bt"); at >= 0 {
			_, rest, _ := strings.Cut(w[at+len(os.TempDir())+1:], "/")
			words[i] = w[:at] + "…/" + rest
		} else if strings.HasPrefix(w, "bt") && len(w) >= 11 {
			words[i] = "ID" + w[11:]
		}
	}
	return strings.Join(words, " ")
}

const introduction = `# Attacks

Written by ` + "`make attacks`" + `, which carries out every attack of ` + "`internal/attack`" + `. "make test" carries the same ones out against Berth alone.

- **withstood**: carried out, and reached nothing.
- **refused**: there was an error instead of a container.
- **FELL**: the host differed afterwards, the container read what is not its own, a protection that was asked for was not there, or a
  neighbor was held up. A mount over the files of /proc about process 1 counts: the kernel's and the runtime's own checks rely on
  them, and where an LSM is on, its label gets lost that way.

Races are tried a hundred times; one that nobody won is counted as withstood.
`

func (r *report) write(w io.Writer, all []subject) {
	var versions []string
	for _, rt := range all {
		versions = append(versions, rt.version())
	}
	var name unix.Utsname
	_ = unix.Uname(&name) // it cannot fail
	fmt.Fprintf(w, "%s\n%s, Linux %s, %d processors. %s.\n", introduction,
		time.Now().UTC().Format(time.DateOnly), unix.ByteSliceToString(name.Release[:]), runtime.NumCPU(), strings.Join(versions, ", "))
	fmt.Fprintf(w, "\n## Runtimes\n\nThe same attack, the same bundle, each runtime's own binary (a copy).\n\n%s\nWhat was said:\n\n%s", r.runtimes.table.String(), r.runtimes.notes.String())
	fmt.Fprintf(w, "\n## Berth as a whole\n\nFrom images and from containers, beside a neighbor.\n\n%s\nWhat was said:\n\n%s", r.engine.table.String(), r.engine.notes.String())
	if r.exposure.table.Len() > 0 {
		fmt.Fprintf(w, "\n## What a container can reach by default\n\nThe same probe in a container of each engine, started without options.\n\n%s\nOnly Berth's has:\n\n%s", r.exposure.table.String(), r.exposure.notes.String())
	}
}
