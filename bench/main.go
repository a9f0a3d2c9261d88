// Command bench measures what Berth promises in SPECIFICATION.md: the time of
// whole commands and the memory of what idles, beside other programs measured
// in the same run, where they are installed. The table is for people, the JSON
// for machines:
//
//	go run ./bench -json bench.json
//
// Figures of one machine mean little to another; the ratios between subjects
// of one row mean more, because their runs alternate. It needs root, and the
// programs that "make build" puts in bin/. Everything it starts lives in a
// directory and network namespaces of its own and is gone at the end.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// options are the command line's.
type options struct {
	bin   string // directory of Berth's programs
	json  string // file for the JSON, "" for none
	runs  int    // of each subject of a quick row; slow rows make fewer
	match *regexp.Regexp
	peers bool
}

func main() {
	var o options
	only := flag.String("only", "", "measure only the rows whose name matches this regular expression")
	flag.StringVar(&o.bin, "bin", "bin", "directory of Berth's programs")
	flag.StringVar(&o.json, "json", "", "also write the report to this file")
	flag.IntVar(&o.runs, "n", 40, "runs of each subject")
	flag.BoolVar(&o.peers, "peers", true, "measure other programs too, where installed")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if o.match, err = regexp.Compile(*only); err == nil {
		err = measureAll(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// report is the whole result.
type report struct {
	Date    time.Time `json:"date"`
	Machine machine   `json:"machine"`
	Version string    `json:"version"` // of Berth
	Rows    []row     `json:"rows"`
}

// row is one thing measured, of Berth and of its peers.
type row struct {
	Name     string    `json:"name"`
	Unit     string    `json:"unit"`
	Target   string    `json:"target"` // what SPECIFICATION.md promises
	Met      bool      `json:"met"`
	Subjects []subject `json:"subjects"` // Berth first
}

// subject is one program in a row.
type subject struct {
	Name    string  `json:"name"`
	N       int     `json:"n,omitempty"`
	Median  float64 `json:"median,omitempty"`
	Least   float64 `json:"least,omitempty"`
	P90     float64 `json:"p90,omitempty"`
	Ratio   float64 `json:"ratio,omitempty"`   // its median over Berth's
	Missing string  `json:"missing,omitempty"` // why it was not measured
}

func measureAll(ctx context.Context, o options) (err error) {
	if os.Getuid() != 0 {
		return fmt.Errorf("needs root: run it with sudo")
	}
	if o.bin, err = filepath.Abs(o.bin); err != nil {
		return err
	}
	b, err := newBench(ctx, o)
	if err != nil {
		return err
	}
	defer b.close()
	r := report{Date: time.Now().UTC().Truncate(time.Second), Machine: thisMachine(), Version: b.version(ctx)}
	for _, m := range b.measurements() {
		if !o.match.MatchString(m.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "bench: %s…\n", m.name)
		result, err := m.measure(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		r.Rows = append(r.Rows, result)
	}
	r.print(os.Stdout)
	if o.json == "" {
		return nil
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(o.json, append(text, '\n'), 0o644)
}

// print writes the table, in Markdown so that it can go into the README.
func (r report) print(w io.Writer) {
	fmt.Fprintf(w, "\nBerth %s on %s, %s\n\n", r.Version, r.Machine, r.Date.Format("2006-01-02"))
	var table strings.Builder
	t := tabwriter.NewWriter(&table, 0, 8, 1, ' ', 0)
	fmt.Fprintln(t, "| what\t| program\t| median\t| least\t| 90 %\t| n\t| × Berth\t| to reach\t|")
	fmt.Fprintln(t, "| ---\t| ---\t| ---\t| ---\t| ---\t| ---\t| ---\t| ---\t|")
	for _, row := range r.Rows {
		for i, s := range row.Subjects {
			name, target := "", ""
			if i == 0 {
				name, target = row.Name, row.Target
				if !row.Met {
					target += " (missed)"
				}
			}
			if s.Missing != "" {
				fmt.Fprintf(t, "| %s\t| %s\t| %s\t| \t| \t| \t| \t| %s\t|\n", name, s.Name, s.Missing, target)
				continue
			}
			fmt.Fprintf(t, "| %s\t| %s\t| %s %s\t| %s\t| %s\t| %d\t| %.2f\t| %s\t|\n",
				name, s.Name, figure(s.Median), row.Unit, figure(s.Least), figure(s.P90), s.N, s.Ratio, target)
		}
	}
	t.Flush()
	fmt.Fprint(w, table.String())
}

// figure prints three significant digits.
func figure(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
