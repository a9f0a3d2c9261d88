package agent

import (
	"fmt"
	"io"
	"time"

	"github.com/berthcloud/berth/api"
)

// Bound is what a host takes from a guest in one stream. A guest may be in the hands of
// anybody: one that sends for ever, or hardly anything, would else hold whatever the
// host keeps still for the stream.
type Bound struct {
	Bytes int64
	// Stall is how long the host waits for bytes in all, beside a second for each that
	// the guest sends at pace. What the host takes to read is not counted.
	Stall time.Duration
}

// pace is what an emulated guest on a busy host still does many times over, in bytes a
// second.
const pace = 1 << 20

// boundReader holds a stream to a Bound.
type boundReader struct {
	stream *stream
	from   io.Reader
	bound  Bound

	got    int64
	waited time.Duration
}

func (r *boundReader) Read(p []byte) (int, error) {
	left := r.bound.Stall + time.Duration(r.got/pace)*time.Second - r.waited
	late := time.AfterFunc(left, func() {
		r.stream.fail(api.E("", api.Unavailable, "", fmt.Errorf("the guest's agent sends too slowly (%d bytes in %s): the guest may hang, berth kill ends it", r.got, (r.waited+left).Round(time.Millisecond))))
	})
	start := time.Now()
	n, err := r.from.Read(p)
	late.Stop()
	r.waited += time.Since(start)
	if r.got += int64(n); r.got > r.bound.Bytes {
		return 0, api.E("", api.Exhausted, "", fmt.Errorf("the guest's agent sends more than %d MiB, which cannot be: berth kill ends the guest", r.bound.Bytes>>20))
	}
	return n, err
}
