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
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
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
	if isWork() {
		os.Exit(work(os.Args[1:]))
	}
	var o options
	only := flag.String("only", "", "measure only the rows whose name matches this regular expression")
	flag.StringVar(&o.bin, "bin", "bin", "directory of Berth's programs")
	flag.StringVar(&o.json, "json", "", "also write the report to this file")
	flag.IntVar(&o.runs, "n", 50, "runs of each subject")
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
		rows, e := m.measure(ctx)
		if e != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", m.name, e))
		}
		if ctx.Err() != nil {
			return err
		}
		r.Rows = append(r.Rows, rows...)
	}
	r.print(os.Stdout)
	if o.json == "" {
		return err
	}
	text, e := json.MarshalIndent(r, "", "  ")
	if e == nil {
		e = os.WriteFile(o.json, append(text, '\n'), 0o644)
	}
	return errors.Join(err, e)
}
