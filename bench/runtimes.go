package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthcloud/berth/internal/oci"
)

// runtimes are the OCI runtimes, each alone: no image, no daemon, no log.
type runtimes struct {
	*den
	dir      string // of bundles and state
	rootfs   string
	prefix   string // of ids
	subjects []ociRuntime
}

// ociRuntime is one of them.
type ociRuntime struct {
	label   string
	missing string
	cli     []string // command line up to the subcommand
}

// newRuntimes finds the runtimes. All work on the same root filesystem.
func (b *bench) newRuntimes(rootfs string) (r *runtimes, err error) {
	r = &runtimes{dir: filepath.Join(b.dir, "oci"), rootfs: rootfs, prefix: filepath.Base(b.dir) + "-"}
	if r.den, err = newDen(atOnce); err != nil {
		return nil, err
	}
	r.subjects = []ociRuntime{{label: "berth-oci", cli: []string{filepath.Join(b.bin, "berth-oci"), "--root", r.dir + "/berth"}}}
	for _, peer := range []string{"crun", "runc"} {
		r.subjects = append(r.subjects, ociRuntime{peer, b.wanted(peer), []string{peer, "--root", r.dir + "/" + peer}})
	}
	return r, nil
}

// bundle writes a bundle of the default specification, changed a little, and
// returns its directory. Its version is one that the runtimes of Debian 12 know.
func (r *runtimes) bundle(name string, change func(*specs.Spec)) (string, error) {
	spec := oci.ExampleSpec()
	spec.Version = "1.0.2"
	spec.Root.Path = r.rootfs
	spec.Process.Terminal = false
	change(spec)
	text, err := json.Marshal(spec)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(r.dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, "config.json"), text, 0o600)
}

// command makes a bundle whose container runs a command.
func (r *runtimes) command(argv ...string) (string, error) {
	return r.bundle(argv[0], func(s *specs.Spec) { s.Process.Args = argv })
}

// id is a container's on a machine that has others.
func (r *runtimes) id(name string) string { return r.prefix + name }

// call runs a runtime's command in the den.
func (r *runtimes) call(ctx context.Context, o ociRuntime, args ...string) error {
	return r.run(func() error { return quiet(ctx, slices.Concat(o.cli, args)...) })
}

// contender times a command; the den is entered before.
func (r *runtimes) contender(o ociRuntime, args ...string) contender {
	return contender{name: o.label, missing: o.missing, run: func(ctx context.Context) (took float64, err error) {
		err = r.run(func() (err error) {
			took, err = timed(func() error { return quiet(ctx, slices.Concat(o.cli, args)...) })
			return err
		})
		return took, err
	}}
}

// trueRun compares a run of the default specification with the floor of any
// container: all its namespaces and a process, nothing else.
func (b *bench) trueRun() measurement {
	const name = "berth-oci run of the default specification, true"
	return measurement{name, func(ctx context.Context) ([]row, error) {
		bundle, err := b.oci.command("true")
		if err != nil {
			return nil, err
		}
		bare, err := b.oci.bundle("bare", func(s *specs.Spec) {
			s.Process.Args = []string{"true"}
			s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Type == "cgroup" })
		})
		if err != nil {
			return nil, err
		}
		floor := b.unshare()
		with := comparison{name: name, unit: "ms", runs: b.runs, warmUp: warm,
			targets: []target{atMostOf(0.6, "crun"), atMostOf(3, floor.name)}}
		without := comparison{name: name + ", without cgroups", unit: "ms", runs: b.runs, warmUp: warm}
		for _, o := range b.oci.subjects {
			id := b.oci.id("true")
			with.contenders = append(with.contenders, b.oci.contender(o, "run", "--bundle", bundle, id))
			if o.label != "runc" { // it always uses cgroups
				without.contenders = append(without.contenders, b.oci.contender(o, "--cgroup-manager=disabled", "run", "--bundle", bare, id))
			}
		}
		with.contenders = append(with.contenders, floor)
		without.contenders = append(without.contenders, floor)
		return measureBoth(ctx, with, without)
	}}
}

// measureBoth makes a row of each of two comparisons.
func measureBoth(ctx context.Context, one, other comparison) ([]row, error) {
	rows, err := one.measure(ctx)
	if err != nil {
		return nil, err
	}
	more, err := other.measure(ctx)
	return append(rows, more...), err
}

// unshare measures the floor.
func (b *bench) unshare() contender {
	o := ociRuntime{"unshare", b.wanted("unshare"), []string{"unshare"}}
	return b.oci.contender(o, "-m", "-u", "-i", "-n", "-p", "-C", "-f", filepath.Join(b.oci.rootfs, "bin/true"))
}

// runtimeExec compares a further command in a running container.
func (b *bench) runtimeExec() measurement {
	const name = "berth-oci exec of true"
	return measurement{name, func(ctx context.Context) (rows []row, err error) {
		bundle, err := b.oci.command("sleep", "1000")
		if err != nil {
			return nil, err
		}
		c := comparison{name: name, unit: "ms", runs: b.runs, warmUp: warm}
		id := b.oci.id("exec")
		for _, o := range b.oci.subjects {
			if o.missing == "" {
				if err := b.oci.call(ctx, o, "run", "-d", "--bundle", bundle, id+o.label); err != nil {
					o.missing = failed(o.label, err)
				}
				defer b.oci.call(context.WithoutCancel(ctx), o, "delete", "--force", id+o.label)
			}
			c.contenders = append(c.contenders, b.oci.contender(o, "exec", id+o.label, "true"))
		}
		if why := c.contenders[0].missing; why != "" {
			return nil, fmt.Errorf("berth-oci: %s", why)
		}
		return c.measure(ctx)
	}}
}
