package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/client"
	"github.com/berthcloud/berth/cmd/berth/internal/parse"
)

// updateOptions are the flags of update.
type updateOptions struct {
	cpus, cpuset, memory, memorySwap, disk, restart string
	cpuShares, cpuWeight                            uint64
	pidsLimit                                       int64
	rates                                           rateOptions
	set                                             func(string) bool
}

func newUpdateCommand(g *global) *cobra.Command {
	var o updateOptions
	cmd := &cobra.Command{
		Use:   "update [OPTIONS] INSTANCE [INSTANCE...]",
		Short: "Change limits and restart policies, live where it runs",
		Long:  exits("Change what instances may use of the host, while they run, as far as their\nkind allows. What no flag names stays as it is."),
		Args:  args(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runUpdate(cmd.Context(), g, o, args)
		},
		ValidArgsFunction: completeInstances(g, nil),
	}
	f := cmd.Flags()
	f.SetNormalizeFunc(specAliases)
	o.set = f.Changed
	f.StringVar(&o.cpus, "cpus", "", "number of processors, as in 1.5; 0 for no limit")
	f.Uint64VarP(&o.cpuShares, "cpu-shares", "c", 0, "share of processor time under contention, as docker counts it")
	f.Uint64Var(&o.cpuWeight, "cpu-weight", 0, "share of processor time under contention, 1 to 10000")
	f.StringVar(&o.cpuset, "cpuset-cpus", "", "processors to run on, as in 0-2,4")
	f.StringVarP(&o.memory, "memory", "m", "", "memory limit, as in 512m; 0 for none")
	f.StringVar(&o.memorySwap, "memory-swap", "", "limit of memory and swap together; -1 for unlimited swap")
	f.StringVar(&o.disk, "disk", "", "size of a VM's disk, as in 10g; it can only grow")
	f.Int64Var(&o.pidsLimit, "pids-limit", 0, "limit of processes; -1 for none")
	o.rates.define(f)
	f.StringVar(&o.restart, "restart", "", "when to start it again: no, on-failure[:N], always, unless-stopped")
	return cmd
}

// apply writes what the flags change over the present limits.
func (o *updateOptions) apply(l api.Limits) (api.Limits, error) {
	cpus := func(s string) (float64, error) {
		if s == "0" {
			return 0, nil
		}
		return parse.CPUs(s)
	}
	err := errors.Join(
		value("--cpus", o.cpus, &l.CPUs, cpus),
		value("--memory", o.memory, &l.Memory, parse.Size),
		value("--memory-swap", o.memorySwap, &l.MemorySwap, parse.SizeOrUnlimited),
		value("--disk", o.disk, &l.Disk, parse.Size),
		o.rates.read(&l),
	)
	if err != nil {
		return l, err
	}
	if o.set("cpu-shares") {
		if l.CPUWeight, err = parse.Weight(o.cpuShares); err != nil {
			return l, fmt.Errorf("--cpu-shares: %w", err)
		}
	}
	if o.set("cpu-weight") {
		l.CPUWeight = o.cpuWeight
	}
	if o.set("cpuset-cpus") {
		l.CPUSet = o.cpuset
	}
	if o.set("pids-limit") {
		l.PIDs = o.pidsLimit
	}
	return l, nil
}

func runUpdate(ctx context.Context, g *global, o updateOptions, refs []string) error {
	if _, err := o.apply(api.Limits{}); err != nil {
		return usage(err)
	}
	var restart *api.RestartPolicy
	if o.restart != "" {
		p, err := parse.Restart(o.restart)
		if err != nil {
			return usage(fmt.Errorf("--restart: %w", err))
		}
		restart = &p
	}
	limits := false
	for _, flag := range []string{"cpus", "cpu-shares", "cpu-weight", "cpuset-cpus", "memory", "memory-swap", "pids-limit", "disk", "disk-iops", "disk-bandwidth", "net-bandwidth"} {
		limits = limits || o.set(flag)
	}
	if !limits && restart == nil {
		return usage(errors.New("nothing to change; name a limit as in --memory 1g, or --restart"))
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	return each(ctx, g, refs, func(ref string) error {
		ch := client.Changes{Restart: restart}
		if limits {
			inst, err := c.Get(ctx, ref)
			if err != nil {
				return err
			}
			l, err := o.apply(inst.Spec.Limits)
			if err != nil {
				return err
			}
			ch.Limits = &l
		}
		_, err := c.Update(ctx, ref, ch)
		return err
	})
}
