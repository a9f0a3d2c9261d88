package attack

import (
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
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
	table, notes strings.Builder
}

// TestTable carries every attack out against every runtime and writes the table.
func TestTable(t *testing.T) {
	if *table == "" {
		t.Skip("make attacks asks for it")
	}
	var r report
	all := append([]contestant{berthOCI(t)}, peers()...)
	r.runtimes(t, all)
	f, err := os.Create(*table)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r.write(f, all)
}

// runtimes attacks the runtimes, one attack after the other.
func (r *report) runtimes(t *testing.T, all []contestant) {
	r.row("attack", "past cases", names(all)...)
	r.row("---", "---", strings.Fields(strings.Repeat("--- ", len(all)))...)
	for _, c := range classes() {
		r.row("**"+c.name+"**", "", make([]string, len(all))...)
		for _, k := range c.attacks {
			var outcomes []string
			for _, rt := range all {
				t.Run(strings.ReplaceAll(k.name, "/", "_")+" "+rt.name, func(t *testing.T) {
					v := k.against(t, rt)
					outcomes = append(outcomes, string(v.outcome))
					r.note(k.name, rt.name, v)
				})
			}
			r.row(k.name, k.cves, outcomes...)
		}
	}
}

func names(all []contestant) []string {
	var list []string
	for _, rt := range all {
		list = append(list, rt.name)
	}
	return list
}

func (r *report) row(first, second string, rest ...string) {
	fmt.Fprintf(&r.table, "| %s |\n", strings.Join(append([]string{first, second}, rest...), " | "))
}

// note says why an attack ended as it did, without the names of one run.
func (r *report) note(attack, who string, v verdict) {
	if v.why != "" {
		fmt.Fprintf(&r.notes, "- %s, %s: %s: `%s`\n", attack, who, v.outcome, unnamed(v.why))
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

Written by ` + "`make attacks`" + `: every attack of ` + "`internal/attack`" + `, carried out against Berth's runtime and in the same way against those
that are installed beside it.

- **withstood**: carried out, and reached nothing.
- **refused**: the runtime gave an error instead of a container.
- **FELL**: the host differed afterwards, the container read what is not its own, or a protection that was asked for was not there.
  A mount over files of /proc that tell about process 1 counts, since the kernel's and the runtime's own checks rely on them; where an
  LSM is on, its label gets lost that way.

Races are tried a hundred times; one that was not won is counted as withstood.
`

func (r *report) write(w io.Writer, all []contestant) {
	var versions []string
	for _, rt := range all {
		versions = append(versions, rt.version())
	}
	var name unix.Utsname
	_ = unix.Uname(&name) // it cannot fail
	fmt.Fprintf(w, "%s\n%s, Linux %s, %d processors. %s.\n\n", introduction,
		time.Now().UTC().Format(time.DateOnly), unix.ByteSliceToString(name.Release[:]), runtime.NumCPU(), strings.Join(versions, ", "))
	fmt.Fprintf(w, "## Runtimes\n\n%s\nWhat was said:\n\n%s", r.table.String(), r.notes.String())
}
