// Package undo is Berth's one idiom for taking back half-done work.
//
//	var u undo.Stack
//	defer u.Run(ctx, &err)
//	dir, err := mkdir()
//	if err != nil { return err }
//	u.Add(func(context.Context) error { return os.RemoveAll(dir) })
//	…
//	u.Release()
//
// Add stands directly after each acquisition. Where the order matters, a
// comment says so.
package undo

import (
	"context"
	"errors"
	"time"
)

// Timeout bounds everything that one Run may take.
const Timeout = 30 * time.Second

// Stack holds the steps that take back what was acquired, last in first out.
// The zero value is ready to use. It is not safe for concurrent use.
type Stack struct {
	steps []func(context.Context) error
}

// Add pushes a step. It is called directly after the acquisition it undoes.
func (s *Stack) Add(step func(context.Context) error) { s.steps = append(s.steps, step) }

// Release forgets all steps: the work is whole and stays.
func (s *Stack) Release() { s.steps = nil }

// Run takes the steps back in reverse order and joins their errors to *err.
// It is meant to be deferred. The steps run even when ctx has ended (that is
// often why they run), but never longer than Timeout in all. Run may be called
// again; released and finished steps are not repeated.
func (s *Stack) Run(ctx context.Context, err *error) {
	if len(s.steps) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), Timeout)
	defer cancel()
	for len(s.steps) > 0 {
		last := len(s.steps) - 1
		step := s.steps[last]
		s.steps = s.steps[:last]
		if e := step(ctx); e != nil {
			*err = errors.Join(*err, e)
		}
	}
}
