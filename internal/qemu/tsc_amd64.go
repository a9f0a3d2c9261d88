package qemu

import (
	"context"
	"time"
)

// counter reads the processor's time stamp counter.
func counter() uint64

// tscTime is how long TSCKHz measures: long enough for one part in 100,000,
// which a guest's clock then has as its drift.
const tscTime = 100 * time.Millisecond

// TSCKHz measures the frequency of the time stamp counter, which an emulated
// guest sees as its own, in kHz. It is 0 where ctx ends first.
func TSCKHz(ctx context.Context) int {
	// The pair that was read closest together counts.
	read := func() (at time.Time, ticks uint64) {
		best := time.Hour
		for range 50 {
			before := time.Now()
			c := counter()
			after := time.Now()
			if d := after.Sub(before); d < best {
				best, at, ticks = d, before.Add(d/2), c
			}
		}
		return at, ticks
	}
	t0, c0 := read()
	select {
	case <-ctx.Done():
		return 0
	case <-time.After(tscTime):
	}
	t1, c1 := read()
	return int(float64(c1-c0)/t1.Sub(t0).Seconds()/1000 + 0.5)
}
