package engine

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/keeper/crilog"
)

// LogOptions choose lines of a log.
type LogOptions struct {
	Follow       bool      // go on until the instance ends
	Since, Until time.Time // zero: unbounded
	Tail         int       // at most so many of the last lines; negative: all
}

// Logs calls f with the lines that an instance wrote to its standard output
// and error, oldest first. The log lives as long as the instance, over all its
// runs, within the bounds of its rotation.
func (e *Engine) Logs(ctx context.Context, ref string, o LogOptions, f func(api.LogLine) error) error {
	en, err := e.find(ref)
	if err != nil {
		return err
	}
	read := crilog.ReadOptions{Tail: o.Tail, Since: o.Since, Until: o.Until}
	if r := en.currentRun(); o.Follow && r != nil {
		read.Follow = r.ended
	}
	err = crilog.Read(ctx, e.logPath(en.id), read, func(entry crilog.Entry) error {
		return f(api.LogLine{
			Time: entry.Time, Stream: entry.Stream, Partial: entry.Partial,
			Text: strings.ToValidUTF8(string(entry.Text), "\uFFFD"),
		})
	})
	if errors.Is(err, context.Canceled) {
		return err
	}
	return api.E("logs", "", en.name(), err)
}
