package main

import (
	"context"
	"errors"
	"testing"
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
	fixed := func(v float64) func(context.Context) (float64, error) {
		return func(context.Context) (float64, error) { return v, nil }
	}
	fails := func(context.Context) (float64, error) { return 0, errors.New("broken") }
	c := comparison{runs: 3, warmUp: 1, contenders: []contender{
		{name: "berth", run: fixed(2)},
		{name: "absent", missing: "not installed"},
		{name: "peer", run: fixed(5)},
		{name: "broken", run: fails},
	}}
	got, err := c.alternate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got[0].Median != 2 || got[0].N != 3 || got[1].Missing == "" || got[1].N != 0 || got[2].Ratio != 2.5 || got[3].Missing == "" {
		t.Errorf("%+v", got)
	}
	c.contenders[0].run = fails
	if _, err := c.alternate(t.Context()); err == nil {
		t.Error("Berth fails and the row does not")
	}
}
