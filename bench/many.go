package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// manyStarts starts many containers, a few at a time.
const (
	many     = 200
	manyPeer = 40 // of an engine that takes seconds for them
	atOnce   = 8
	rounds   = 3
)

// starter starts containers in the background, and takes all of them away.
type starter struct {
	name, missing string
	count         int
	start         func(ctx context.Context, id string) error
	remove        func(ctx context.Context, ids []string) error
}

// manyStarts measures how many containers start per second, and how evenly.
func (b *bench) manyStarts() measurement {
	name := fmt.Sprintf("%d containers started, %d at a time", many, atOnce)
	return measurement{name, func(ctx context.Context) ([]row, error) {
		all, err := b.starters()
		if err != nil {
			return nil, err
		}
		took := make([][]float64, len(all)) // by single starts, of all rounds
		rate := comparison{name: name, unit: "/s", runs: rounds, targets: []target{atLeastOf(0.8, "crun"), atLeastOf(20, "docker")}}
		for i, s := range all {
			rate.contenders = append(rate.contenders, contender{name: s.name, missing: s.missing, run: func(ctx context.Context) (float64, error) {
				seconds, single, err := s.round(ctx)
				took[i] = append(took[i], single...)
				return float64(s.count) / seconds, err
			}})
		}
		rates, err := rate.measure(ctx)
		if err != nil {
			return nil, err
		}
		var single, tails []subject
		for i, s := range rates[0].Subjects {
			if s.Missing != "" {
				single, tails = append(single, s), append(tails, s)
				continue
			}
			one := summarize(s.Name, took[i])
			single = append(single, one)
			tail := summarize(s.Name, []float64{quantile(took[i], 0.99) / one.Median})
			tail.N = one.N
			tails = append(tails, tail)
		}
		return append(rates,
			row{Name: fmt.Sprintf("one start among %d", atOnce), Unit: "ms", Subjects: compare(single)},
			row{Name: "the slowest hundredth of these starts over the median", Unit: "×",
				Verdicts: judge(tails, []target{atMost(4, "× the median")}), Subjects: compare(tails)}), nil
	}}
}

// starters are the engines that the row names, and the runtimes alone.
func (b *bench) starters() ([]starter, error) {
	var all []starter
	for _, e := range []*server{b.daemon, b.dockerd} {
		s := starter{name: e.label, missing: e.why, count: manyPeer, start: e.runIdle,
			remove: func(ctx context.Context, ids []string) error { return e.remove(ctx, ids...) }}
		if e == b.daemon {
			s.count = many
		}
		all = append(all, s)
	}
	bundle, err := b.oci.command("sleep", "1000")
	if err != nil {
		return nil, err
	}
	for _, o := range b.oci.subjects {
		all = append(all, starter{name: o.label, missing: o.missing, count: many,
			start: func(ctx context.Context, id string) error {
				return b.oci.call(ctx, o, "run", "--detach", "--bundle", bundle, b.oci.id(id))
			},
			remove: func(ctx context.Context, ids []string) (err error) {
				for _, id := range ids {
					err = errors.Join(err, b.oci.call(ctx, o, "delete", "--force", b.oci.id(id)))
				}
				return err
			}})
	}
	return all, nil
}

// round starts the containers and removes them again. It returns how long all
// starts took together, and in milliseconds how long each of them.
func (s *starter) round(ctx context.Context) (seconds float64, single []float64, err error) {
	ids := make(chan string)
	results := make(chan error)
	single = make([]float64, 0, s.count)
	var started []string
	for i := range s.count {
		started = append(started, "many"+strconv.Itoa(i))
	}
	defer func() {
		err = errors.Join(err, s.remove(context.WithoutCancel(ctx), started))
	}()
	samples := make([][]float64, atOnce)
	begin := time.Now()
	for w := range atOnce {
		go func() {
			var err error
			for id := range ids {
				took, e := timed(func() error { return s.start(ctx, id) })
				samples[w] = append(samples[w], took)
				err = errors.Join(err, e)
			}
			results <- err
		}()
	}
	for _, id := range started {
		ids <- id
	}
	close(ids)
	for range atOnce {
		err = errors.Join(err, <-results)
	}
	seconds = time.Since(begin).Seconds()
	return seconds, slices.Concat(samples...), err
}
