package main

import (
	"context"
	"fmt"
	"slices"
)

// neighborhood is what each of two VMs may use of the host, and so what a fair share is.
func neighborhood() []string {
	return []string{"--cpus", "1", "--disk-iops", "2000", "--disk-bandwidth", "32m", "--net-bandwidth", "32m"}
}

// burn keeps a VM's processor, disk and network as busy as they let it.
const burn = `head -c 67108864 /dev/zero >/file; sync
	while :; do :; done &
	while :; do dd if=/file of=/dev/null bs=64k iflag=direct 2>/dev/null; dd if=/dev/zero of=/file bs=64k count=1024 conv=fsync 2>/dev/null; done &
	while :; do wget -qO /dev/null http://source/file; done`

// neighbor compares fixed work in a VM beside one that burns all that it may with the
// same work alone: the noisy one is paused meanwhile.
func (b *bench) neighbor(n int) []measurement {
	var list []measurement
	for _, work := range []struct{ what, command string }{
		{"processor", "i=0; while test $i -lt 30000; do i=$((i+1)); done"},
		{"disk", "dd if=/file of=/dev/null bs=64k iflag=direct 2>/dev/null"},
		{"network", "wget -qO /dev/null http://source/file"},
	} {
		name := "a VM's " + work.what + " beside a VM that burns all three"
		list = append(list, measurement{name, func(ctx context.Context) ([]row, error) {
			if err := b.settle(ctx); err != nil {
				return nil, err
			}
			defer b.daemon.remove(context.WithoutCancel(ctx), "noisy", "victim", "source")
			now := "pause" // what the noisy one was told last
			timedWhile := func(want string) func(context.Context) (float64, error) {
				return func(ctx context.Context) (float64, error) {
					if now != want {
						if err := b.daemon.command(ctx, want, "noisy"); err != nil {
							return 0, err
						}
						now = want
					}
					return timed(func() error { return b.daemon.command(ctx, "exec", "victim", "sh", "-c", work.command) })
				}
			}
			// 90 % of its share is 1 / 0.9 of the time.
			return comparison{name: name, unit: "ms", runs: n, warmUp: 1, targets: []target{atMostOf(1.11, "alone")}, contenders: []contender{
				{name: "beside it", run: timedWhile("unpause")}, {name: "alone", run: timedWhile("pause")},
			}}.measure(ctx)
		}})
	}
	return list
}

// settle starts the two VMs and whom they speak to.
func (b *bench) settle(ctx context.Context) error {
	vm := append([]string{"run", "-d", "--vm", "--virt", "para"}, neighborhood()...)
	for _, args := range [][]string{
		{"run", "-d", "--name", "source", "base", "sh", "-c", "head -c 16777216 /dev/zero >/file; exec httpd -f -h /"},
		append(slices.Clip(vm), "--name", "victim", "base", "sh", "-c", "head -c 33554432 /dev/zero >/file; sync; exec sleep 100000"),
		append(slices.Clip(vm), "--name", "noisy", "base", "sh", "-c", burn),
		{"exec", "victim", "sh", "-c", "while test $(wc -c </file) -lt 33554432; do sleep 1; done; sync"},
		{"pause", "noisy"},
	} {
		if err := b.daemon.command(ctx, args...); err != nil {
			return fmt.Errorf("the noisy neighborhood: %w", err)
		}
	}
	return nil
}
