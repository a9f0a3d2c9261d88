package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"
)

// measurement makes one row.
type measurement struct {
	name    string
	measure func(context.Context) (row, error)
}

// contender is a program that a row measures. Its setUp is not timed; an
// errMissing from it makes the row go on without it.
type contender struct {
	name string
	run  func(context.Context) (time.Duration, error)
	// missing says why it cannot be measured, "" where it can.
	missing string
}

// alternate measures contenders in turn, so that what disturbs the machine
// disturbs all of them, and returns milliseconds. Two runs of each are thrown
// away first. A peer that fails is left out; Berth, the first, must not fail.
func alternate(ctx context.Context, n int, all []contender) ([]subject, error) {
	const warmUp = 2
	samples := make([][]float64, len(all))
	for i := range n + warmUp {
		for j := range all {
			k := (i + j) % len(all) // nobody always follows the same one
			c := &all[k]
			if c.missing != "" {
				continue
			}
			took, err := c.run(ctx)
			if err != nil && (k == 0 || ctx.Err() != nil) {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			if err != nil {
				fmt.Fprintf(os.Stderr, "bench: %s: %v\n", c.name, err)
				c.missing = "fails here"
				continue
			}
			if i >= warmUp {
				samples[k] = append(samples[k], float64(took)/float64(time.Millisecond))
			}
		}
	}
	subjects := make([]subject, len(all))
	for i, c := range all {
		if c.missing != "" {
			subjects[i] = subject{Name: c.name, Missing: c.missing}
			continue
		}
		subjects[i] = summarize(c.name, samples[i])
	}
	return compare(subjects), nil
}

// summarize describes a sample.
func summarize(name string, sample []float64) subject {
	if len(sample) == 0 {
		return subject{Name: name}
	}
	slices.Sort(sample)
	return subject{
		Name: name, N: len(sample),
		Median: quantile(sample, 0.5), Least: sample[0], P90: quantile(sample, 0.9),
	}
}

// quantile interpolates in a sorted sample.
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	low := int(at)
	if low+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}

// compare fills in the ratios to the first subject.
func compare(subjects []subject) []subject {
	for i := range subjects {
		if subjects[0].Median > 0 && subjects[i].Missing == "" {
			subjects[i].Ratio = subjects[i].Median / subjects[0].Median
		}
	}
	return subjects
}

// timed returns how long f takes.
func timed(f func() error) (time.Duration, error) {
	start := time.Now()
	err := f()
	return time.Since(start), err
}
