package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// diskOfInstances measures what instances of one image take of the disk before they
// write.
func (b *bench) diskOfInstances() measurement {
	const name, many = "disk of an instance that has written nothing, 100 of one image", 100
	return measurement{name, func(ctx context.Context) ([]row, error) {
		c := comparison{name: name, unit: "kB", runs: 1, targets: []target{atMost(1000, "kB")}}
		for _, engine := range []*server{b.daemon, b.dockerd} {
			c.contenders = append(c.contenders, contender{name: engine.label, missing: engine.why, run: func(ctx context.Context) (float64, error) {
				before, err := diskOf(ctx, engine.dir)
				if err != nil {
					return 0, err
				}
				var names []string
				for i := range many {
					names = append(names, fmt.Sprint("bench-disk-", i))
					if err = engine.runIdle(ctx, names[i]); err != nil {
						break
					}
				}
				after, aerr := diskOf(ctx, engine.dir)
				return (after - before) / many / 1000, errors.Join(err, aerr, engine.remove(context.WithoutCancel(ctx), names...))
			}})
		}
		return c.measure(ctx)
	}}
}

// diskOf returns the bytes that a directory takes, without what is mounted below it.
func diskOf(ctx context.Context, dir string) (float64, error) {
	out, err := output(ctx, "du", "-s", "-x", "--block-size=1", dir)
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(strings.Fields(out)[0], 64)
}
