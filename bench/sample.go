package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"
)

// measurement makes rows that are measured together.
type measurement struct {
	name    string
	measure func(context.Context) ([]row, error)
}

// contender is a program that a row measures.
type contender struct {
	name string
	run  func(context.Context) (float64, error) // one sample, in the row's unit
	// missing says why it cannot be measured, "" where it can.
	missing string
}

// comparison is a row whose subjects are measured in turn.
type comparison struct {
	name, unit string
	runs       int // of each
	warmUp     int // runs thrown away first
	targets    []target
	contenders []contender // Berth first
}

// warm is how many runs are thrown away where runs are cheap.
const warm = 2

// measurement makes the comparison's one row.
func (c comparison) measurement() measurement {
	return measurement{c.name, func(ctx context.Context) ([]row, error) { return c.measure(ctx) }}
}

func (c comparison) measure(ctx context.Context) ([]row, error) {
	subjects, err := c.alternate(ctx)
	if err != nil {
		return nil, err
	}
	return []row{{Name: c.name, Unit: c.unit, Verdicts: judge(subjects, c.targets), Subjects: subjects}}, nil
}

// alternate measures the contenders in turn, so that what disturbs the machine
// disturbs all of them. A peer that fails is left out; Berth, the first, must
// not fail.
func (c comparison) alternate(ctx context.Context) ([]subject, error) {
	all := slices.Clone(c.contenders)
	samples := make([][]float64, len(all))
	for i := range c.runs + c.warmUp {
		for j := range all {
			k := (i + j) % len(all) // nobody always follows the same one
			one := &all[k]
			if one.missing != "" {
				continue
			}
			sample, err := one.run(ctx)
			if err != nil && (k == 0 || ctx.Err() != nil) {
				return nil, fmt.Errorf("%s: %w", one.name, err)
			}
			if err != nil {
				one.missing = failed(one.name, err)
				continue
			}
			if i >= c.warmUp {
				samples[k] = append(samples[k], sample)
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

// timed returns how many milliseconds f takes.
func timed(f func() error) (float64, error) {
	start := time.Now()
	err := f()
	return milliseconds(time.Since(start)), err
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// failed tells of a peer's failure at once, and returns what the table says.
func failed(name string, err error) string {
	fmt.Fprintf(os.Stderr, "bench: %s: %v\n", name, err)
	return "fails here"
}
