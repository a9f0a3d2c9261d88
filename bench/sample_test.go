package main

import (
	"context"
	"testing"
	"time"
)

func TestSummarize(t *testing.T) {
	s := summarize("x", []float64{5, 1, 4, 2, 3})
	if s.N != 5 || s.Median != 3 || s.Least != 1 || s.P90 != 4.6 {
		t.Errorf("%+v", s)
	}
	if s := summarize("one", []float64{7}); s.Median != 7 || s.P90 != 7 {
		t.Errorf("%+v", s)
	}
}

func TestAlternate(t *testing.T) {
	fixed := func(d time.Duration) func(context.Context) (time.Duration, error) {
		return func(context.Context) (time.Duration, error) { return d, nil }
	}
	got, err := alternate(t.Context(), 3, []contender{
		{name: "berth", run: fixed(2 * time.Millisecond)},
		{name: "absent", missing: "not installed"},
		{name: "peer", run: fixed(5 * time.Millisecond)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got[0].Median != 2 || got[0].N != 3 || got[1].Missing == "" || got[1].N != 0 || got[2].Ratio != 2.5 {
		t.Errorf("%+v", got)
	}
}
