package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// buildSteps are the commands of a Dockerfile of five steps, that read and write as
// installers and compilers do: four of RUN, beside one of COPY.
var buildSteps = []string{
	`for a in mkdir head tr sha256sum tar gzip rm find xargs ls; do busybox ln -sf busybox /bin/$a; done; mkdir -p /src && i=0 && while [ $i -lt 2000 ]; do echo "file $i" >/src/$i; i=$((i+1)); done`,
	`head -c 40000000 /dev/zero | tr '\0' x >/big && sha256sum /big >/sum`,
	`tar -cf /src.tar /src && gzip -c /src.tar >/src.tgz && rm /src.tar`,
	`find /src -name '*7' | xargs rm && rm /big && ls -lR /src >/listing`,
}

// busyStep is a command that takes one processor a while, and no disk: a pipe would take two.
const busyStep = `busybox awk 'BEGIN { while (i < 2000000) i++ }'`

// stageCount is the number of independent stages.
const stageCount = 10

// builds compares builds, with docker's two builders and with the bare commands.
func (b *bench) builds(n int) measurement {
	const none, cached, stages = "build of five steps, no cache", "the same, all cached", "build of ten independent stages"
	return measurement{none, func(ctx context.Context) (rows []row, err error) {
		dir, err := os.MkdirTemp(b.dir, "build")
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		if err := writeContexts(dir); err != nil {
			return nil, err
		}
		bare, err := b.bareCommands(dir)
		if err != nil {
			return nil, err
		}
		five := func(flags ...string) []string {
			return slices.Concat([]string{"build", "-q", "-t", "bench-build", "--network", "none"}, flags, []string{filepath.Join(dir, "five")})
		}
		parallel := func(kind string) []string {
			return []string{"build", "-q", "-t", "bench-stages", "--network", "none", "--no-cache", filepath.Join(dir, kind)}
		}
		inTurn := b.berth(parallel("turn")...)
		inTurn.name = "one after another"
		for _, c := range []comparison{
			{name: none, unit: "ms", runs: n, warmUp: 1, targets: []target{atMostOf(0.5, "docker"), atMostOf(1.2, bare.name)},
				contenders: []contender{b.berth(five("--no-cache")...), b.docker(five("--no-cache")...), b.buildKit(five("--no-cache")...), bare}},
			{name: cached, unit: "ms", runs: b.runs, warmUp: warm, targets: []target{atMost(40, "ms"), atMostOf(0.5, "docker")},
				contenders: []contender{b.berth(five()...), b.docker(five()...), b.buildKit(five()...)}},
			{name: stages, unit: "ms", runs: n, warmUp: 1, targets: []target{atMostOf(0.65, inTurn.name)},
				contenders: []contender{b.berth(parallel("stages")...), inTurn, b.buildKit(parallel("stages")...)}},
		} {
			more, err := c.measure(ctx)
			if err != nil {
				return nil, err
			}
			rows = append(rows, more...)
		}
		return rows, nil
	}}
}

// buildKit is docker with the builder that newer versions have by default.
func (b *bench) buildKit(args ...string) contender {
	argv := slices.Concat([]string{"env", "DOCKER_BUILDKIT=1"}, b.dockerd.cli, args)
	return contender{name: "docker with BuildKit", missing: b.dockerd.why, run: func(ctx context.Context) (float64, error) {
		return timed(func() error { return quiet(ctx, argv...) })
	}}
}

// bareCommands runs what five steps run, in a copy of the image's files, with the one
// device that they read.
func (b *bench) bareCommands(dir string) (contender, error) {
	script := strings.Join(append(slices.Clone(buildSteps), "true"), "\n")
	return contender{name: "the bare commands", run: func(ctx context.Context) (ms float64, err error) {
		root, err := os.MkdirTemp(dir, "bare")
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(root)) }()
		if err := quiet(ctx, "cp", "-a", b.oci.rootfs+"/.", root); err != nil {
			return 0, err
		}
		if err := os.MkdirAll(filepath.Join(root, "dev"), 0o755); err != nil {
			return 0, err
		}
		if err := quiet(ctx, "mknod", "-m", "666", filepath.Join(root, "dev/zero"), "c", "1", "5"); err != nil {
			return 0, err
		}
		return timed(func() error {
			if err := quiet(ctx, "cp", "-a", filepath.Join(dir, "five"), filepath.Join(root, "context")); err != nil {
				return err
			}
			return quiet(ctx, "chroot", root, "/bin/sh", "-ec", script)
		})
	}}, nil
}

// writeContexts writes what is built.
func writeContexts(dir string) error {
	var five, stages, collect, turn strings.Builder
	five.WriteString("FROM base\nCOPY . /context\n")
	for _, step := range buildSteps {
		fmt.Fprintf(&five, "RUN %s\n", step)
	}
	turn.WriteString("FROM base\n")
	collect.WriteString("FROM base\n")
	for i := range stageCount {
		fmt.Fprintf(&stages, "FROM base AS s%d\nRUN %s; echo %d >/out\n", i, busyStep, i)
		fmt.Fprintf(&turn, "RUN %s; echo %d >/out%d\n", busyStep, i, i)
		fmt.Fprintf(&collect, "COPY --from=s%d /out /out%d\n", i, i)
	}
	stages.WriteString(collect.String())
	for name, text := range map[string]string{"five": five.String(), "stages": stages.String(), "turn": turn.String()} {
		sub := filepath.Join(dir, name)
		if err := os.Mkdir(sub, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(sub, "Dockerfile"), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "five", "data"), make([]byte, 1<<20), 0o644)
}
