package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/client"
	"github.com/berthcloud/berth/cmd/berth/internal/parse"
)

// logsOptions are the flags of logs.
type logsOptions struct {
	follow, timestamps bool
	since, until, tail string
}

func newLogsCommand(g *global) *cobra.Command {
	var o logsOptions
	cmd := &cobra.Command{
		Use:   "logs [OPTIONS] INSTANCE",
		Short: "Show what an instance wrote",
		Long: exits(`Show what an instance wrote to its standard output and standard error; each
goes to the same stream here. Times are RFC 3339, seconds since 1970, or a
duration before now as in 10m.`),
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runLogs(cmd.Context(), g, o, args[0])
		},
		ValidArgsFunction: completeInstances(g, nil),
	}
	f := cmd.Flags()
	f.BoolVarP(&o.follow, "follow", "f", false, "go on until the instance ends")
	f.BoolVarP(&o.timestamps, "timestamps", "t", false, "begin each line with its time")
	f.StringVar(&o.since, "since", "", "only what was written since a time")
	f.StringVar(&o.until, "until", "", "only what was written before a time")
	f.StringVarP(&o.tail, "tail", "n", "all", "only the last N lines")
	return cmd
}

// read reads the flags.
func (o logsOptions) read(now time.Time) (client.LogOptions, error) {
	lo := client.LogOptions{Follow: o.follow, Tail: -1}
	var err error
	if lo.Since, err = parse.Time(o.since, now); err != nil {
		return lo, fmt.Errorf("--since: %w", err)
	}
	if lo.Until, err = parse.Time(o.until, now); err != nil {
		return lo, fmt.Errorf("--until: %w", err)
	}
	if o.tail != "all" && o.tail != "" {
		if lo.Tail, err = strconv.Atoi(o.tail); err != nil || lo.Tail < -1 {
			return lo, fmt.Errorf("--tail: %q is not a number of lines; write a number or all", o.tail)
		}
	}
	return lo, nil
}

func runLogs(ctx context.Context, g *global, o logsOptions, ref string) error {
	lo, err := o.read(g.now())
	if err != nil {
		return usage(err)
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	out, errs := bufio.NewWriter(g.Out), bufio.NewWriter(g.Err)
	continued := map[string]bool{} // stream → its last line was partial
	err = c.Logs(ctx, ref, lo, func(l api.LogLine) error {
		w := out
		if l.Stream == "stderr" {
			w = errs
		}
		writeLog(w, l, o.timestamps && !continued[l.Stream])
		continued[l.Stream] = l.Partial
		if w == errs || o.follow {
			// Keep the two streams in order, and a follower up to date.
			if err := out.Flush(); err != nil {
				return err
			}
			return errs.Flush()
		}
		return nil
	})
	if flush := out.Flush(); err == nil {
		err = flush
	}
	return quietly(ctx, err)
}

// writeLog writes one line, or the part of one.
func writeLog(w io.Writer, l api.LogLine, stamped bool) {
	if stamped {
		fmt.Fprintf(w, "%s ", l.Time.UTC().Format("2006-01-02T15:04:05.000000000Z"))
	}
	end := "\n"
	if l.Partial {
		end = ""
	}
	_, _ = io.WriteString(w, l.Text+end)
}
