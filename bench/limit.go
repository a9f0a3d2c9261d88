package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// The search for the smallest memory limit goes in pages, from one with which
// every program fails to one with which every program works.
const (
	pageKiB   = 4
	mostPages = 16384 // 64 MiB
	surely    = 5     // that many runs must all succeed
)

// smallestLimitOfRuntimes compares OCI runtimes, whose own first steps happen
// within the limit.
func (b *bench) smallestLimitOfRuntimes() measurement {
	const name = "smallest memory limit in which true runs, berth-oci"
	return measurement{name, func(ctx context.Context) ([]row, error) {
		var all []limited
		for _, o := range b.oci.subjects {
			all = append(all, b.oci.limited(o))
		}
		return smallestLimit(ctx, name, atMostOf(1, "crun"), all)
	}}
}

// smallestLimitOfEngines compares containers from images.
func (b *bench) smallestLimitOfEngines() measurement {
	const name = "smallest memory limit in which true runs, berth run"
	return measurement{name, func(ctx context.Context) ([]row, error) {
		var all []limited
		for _, e := range []*server{b.daemon, b.dockerd} {
			all = append(all, limited{e.label, e.why, func(ctx context.Context, kib int) error {
				return e.command(ctx, "run", "--rm", "--network", "none", "--memory", strconv.Itoa(kib)+"k", "base", "true")
			}})
		}
		all = append(all, b.oci.limited(b.oci.subjects[1]))
		return smallestLimit(ctx, name, atMostOf(1, "crun"), all)
	}}
}

// limited runs true within a limit.
type limited struct {
	name, missing string
	run           func(ctx context.Context, kib int) error
}

// limited runs true with a runtime alone.
func (r *runtimes) limited(o ociRuntime) limited {
	id := r.id("limit")
	return limited{o.label, o.missing, func(ctx context.Context, kib int) error {
		bundle, err := r.bundle("limit", func(s *specs.Spec) {
			s.Process.Args = []string{"true"}
			bytes := int64(kib) << 10
			s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &bytes}
		})
		if err != nil {
			return err
		}
		if err = r.call(ctx, o, "run", "--bundle", bundle, id); err != nil { // runc keeps what did not start
			_ = r.call(context.WithoutCancel(ctx), o, "delete", "--force", id)
		}
		return err
	}}
}

func smallestLimit(ctx context.Context, name string, promise target, all []limited) ([]row, error) {
	var subjects []subject
	for i, l := range all {
		s := subject{Name: l.name, Missing: l.missing}
		if l.missing == "" {
			kib, err := l.smallest(ctx)
			if err != nil && (i == 0 || ctx.Err() != nil) {
				return nil, err
			}
			if s = single(l.name, kib, surely); err != nil {
				s = subject{Name: l.name, Missing: failed(l.name, err)}
			}
		}
		subjects = append(subjects, s)
	}
	return []row{{Name: name, Unit: "KiB", Verdicts: judge(subjects, []target{promise}), Subjects: compare(subjects)}}, nil
}

// smallest halves the interval in which the answer lies.
func (l limited) smallest(ctx context.Context) (float64, error) {
	works := func(pages int) error {
		for range surely {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			err := l.run(ctx, pages*pageKiB)
			cancel()
			if err != nil {
				return err
			}
		}
		return nil
	}
	fails, enough := 0, mostPages
	if err := works(enough); err != nil {
		return 0, fmt.Errorf("with %d KiB: %w", enough*pageKiB, err)
	}
	for enough-fails > 1 && ctx.Err() == nil {
		if middle := (fails + enough) / 2; works(middle) == nil {
			enough = middle
		} else {
			fails = middle
		}
	}
	return float64(enough * pageKiB), ctx.Err()
}
