package undo

import (
	"context"
	"errors"
	"slices"
	"testing"
)

func TestRunReverses(t *testing.T) {
	var got []int
	var s Stack
	for i := range 3 {
		s.Add(func(context.Context) error { got = append(got, i); return nil })
	}
	var err error
	s.Run(t.Context(), &err)
	s.Run(t.Context(), &err)
	if want := []int{2, 1, 0}; !slices.Equal(got, want) || err != nil {
		t.Errorf("steps ran as %v, err %v; want %v, nil", got, err, want)
	}
}

func TestReleaseKeeps(t *testing.T) {
	var s Stack
	s.Add(func(context.Context) error { t.Error("a released step ran"); return nil })
	s.Release()
	var err error
	s.Run(t.Context(), &err)
}

func TestRunAfterCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var s Stack
	boom := errors.New("boom")
	s.Add(func(ctx context.Context) error {
		if ctx.Err() != nil {
			t.Error("the undo step got a context that had already ended")
		}
		return boom
	})
	err := context.Canceled
	s.Run(ctx, &err)
	if !errors.Is(err, boom) || !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v; want both the cause and the failed step", err)
	}
}
