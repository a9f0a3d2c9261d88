package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// inside compares work in a container with the same work of the same programs
// outside. The image of both is a directory with the programs and their libraries.
type inside struct {
	*bench
	root string // of the image, for the native subject
	data string // a directory that the container has as a volume
}

const (
	insideName = "inside"
	dataFile   = "data/file"
	dataMiB    = 128
)

// inside makes all these rows, for they share the container.
func (b *bench) inside() measurement {
	return measurement{"inside a container against native", func(ctx context.Context) (rows []row, err error) {
		in := &inside{b, filepath.Join(b.dir, "inside"), filepath.Join(b.dir, "data")}
		if err := in.start(ctx); err != nil {
			return nil, err
		}
		defer b.daemon.remove(context.WithoutCancel(ctx), insideName)
		for _, t := range slices.Concat(in.works(), in.files()) {
			more, err := in.comparison(t).measure(ctx)
			if err != nil {
				return rows, fmt.Errorf("%s: %w", t.name, err)
			}
			rows = append(rows, more...)
		}
		more, err := in.network(ctx)
		return append(rows, more...), err
	}}
}

// tools are what runs inside, where they are installed.
func tools() []string {
	return slices.DeleteFunc([]string{"fio", "iperf3"}, func(p string) bool { return installed(p) != "" })
}

// start makes the image and the container.
func (in *inside) start(ctx context.Context) error {
	if err := in.makeImage(ctx); err != nil {
		return err
	}
	return in.daemon.command(ctx, "run", "-d", "--name", insideName, "-v", in.data+":/volume", insideName, "sleep", "10000")
}

// makeImage makes the image, and what is to be a volume.
func (in *inside) makeImage(ctx context.Context) error {
	for _, dir := range []string{in.root + "/bin", in.root + "/data", in.root + "/tmp", in.data} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// Programs with all that they load, each library under its own path.
	script := `set -e; cp "$2" "$1/bin/work"; cp "$(command -v busybox)" "$1/bin/busybox"; ln -s busybox "$1/bin/sleep"
		for program in $3; do
			cp "$(command -v $program)" "$1/bin/"
			ldd "$(command -v $program)" | grep -o '/[^ )]*' | sort -u | while read -r lib; do
				mkdir -p "$1$(dirname "$lib")"; cp -L "$lib" "$1$lib"
			done
		done
		head -c ` + strconv.Itoa(dataMiB<<20) + ` /dev/urandom > "$1/` + dataFile + `"
		mkdir -p "$4/data"; cp "$1/` + dataFile + `" "$4/` + dataFile + `"; chmod -R a+rX "$4"; tar cf "$1.tar" -C "$1" .; sync -f "$1"`
	if err := quiet(ctx, "sh", "-c", script, "sh", in.root, self, strings.Join(tools(), " "), in.data); err != nil {
		return err
	}
	return in.daemon.command(ctx, "image", "import", in.root+".tar", insideName)
}

// task is one piece of work: the same command in the container and outside, but
// for where its files are.
type task struct {
	name, unit string
	program    string // has to be installed; "" for our own
	runs       int
	targets    []target
	command    func(root, volume string) []string
	prepare    func() error                  // before each run; nil for nothing
	read       func(string) (float64, error) // finds the figure in the output
}

// comparison makes a row of a task.
func (in *inside) comparison(t task) comparison {
	missing := ""
	if t.program != "" {
		missing = installed(t.program)
	}
	subject := func(name string, argv []string) contender {
		return contender{name: name, missing: missing, run: func(ctx context.Context) (float64, error) {
			if t.prepare != nil {
				if err := t.prepare(); err != nil {
					return 0, err
				}
			}
			out, err := output(ctx, argv...)
			if err != nil {
				return 0, err
			}
			return t.read(out)
		}}
	}
	return comparison{name: "inside: " + t.name, unit: t.unit, runs: t.runs, warmUp: warm, targets: t.targets, contenders: []contender{
		subject("berth", slices.Concat(in.daemon.cli, []string{"exec", insideName}, t.command("", "/volume"))),
		subject("native", t.command(in.root, in.data)),
	}}
}

// works are the tasks of the processor and the memory.
func (in *inside) works() []task {
	number := func(out string) (float64, error) { return strconv.ParseFloat(out, 64) }
	do := func(kind string) func(root, volume string) []string {
		return func(root, _ string) []string { return []string{root + "/bin/work", kind} }
	}
	promised := []target{atLeastOf(0.98, "native")}
	return []task{
		{name: "CPU loop", unit: "M/s", runs: in.runs, targets: promised, command: do("cpu"), read: number},
		{name: "copied memory", unit: "MiB/s", runs: in.runs, targets: promised, command: do("copy"), read: number},
		{name: "fresh memory", unit: "MiB/s", runs: in.runs, targets: promised, command: do("pages"), read: number},
		{name: "system calls that do nothing", unit: "M/s", runs: in.runs, command: do("calls"), read: number},
	}
}

// files are the tasks of the image, cold and warm, and of a volume, past the cache.
func (in *inside) files() []task {
	fio := func(in func(root, volume string) string, flags ...string) func(root, volume string) []string {
		return func(root, volume string) []string {
			return slices.Concat([]string{root + "/bin/fio", "--name=bench", "--readonly", "--thread", "--ioengine=psync", "--output-format=json",
				"--filename=" + in(root, volume), fmt.Sprintf("--size=%dm", dataMiB)}, flags)
		}
	}
	image := func(root, _ string) string { return root + "/" + dataFile }
	volume := func(_, volume string) string { return volume + "/" + dataFile }
	few := max(5, in.runs/2)
	promised := []target{atLeastOf(0.95, "native")}
	volumes := []target{atLeastOf(0.98, "native")}
	return []task{
		{name: "image read, cold", unit: "MiB/s", program: "fio", runs: few, targets: promised, prepare: in.chill, read: bandwidth,
			command: fio(image, "--rw=read", "--bs=128k", "--invalidate=1")},
		{name: "image read, warm", unit: "MiB/s", program: "fio", runs: few, targets: promised, read: bandwidth,
			command: fio(image, "--rw=read", "--bs=128k", "--invalidate=0", "--time_based", "--runtime=300ms")},
		{name: "image read at random, warm", unit: "/s", program: "fio", runs: few, targets: promised, read: operations,
			command: fio(image, "--rw=randread", "--bs=4k", "--invalidate=0", "--time_based", "--runtime=300ms")},
		{name: "volume read, direct", unit: "MiB/s", program: "fio", runs: few, targets: volumes, read: bandwidth,
			command: fio(volume, "--rw=read", "--bs=128k", "--direct=1", "--time_based", "--runtime=300ms")},
		{name: "volume read at random, direct", unit: "/s", program: "fio", runs: few, targets: volumes, read: operations,
			command: fio(volume, "--rw=randread", "--bs=4k", "--direct=1", "--time_based", "--runtime=300ms")},
	}
}

// chill drops what the page cache has of the image's file: of the native one, and of
// the files in which Berth keeps layers. What lies above them fio drops itself.
func (in *inside) chill() error {
	for _, dir := range []string{filepath.Join(in.root, "data"), filepath.Join(in.daemon.dir, "root")} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			if err := f.Sync(); err != nil { // dirty pages stay
				return err
			}
			return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // berthd is at work there
			return err
		}
	}
	return nil
}

// fioReport is the part of fio's JSON that we read.
type fioReport struct {
	Jobs []struct {
		Read struct {
			Bandwidth float64 `json:"bw_bytes"`
			IOPS      float64 `json:"iops"`
		} `json:"read"`
	} `json:"jobs"`
}

// readFio skips the notes that fio writes before its report.
func readFio(out string) (r fioReport, err error) {
	if err = json.Unmarshal([]byte(out[max(0, strings.IndexByte(out, '{')):]), &r); err == nil && len(r.Jobs) != 1 {
		err = fmt.Errorf("fio reports %d jobs", len(r.Jobs))
	}
	return r, err
}

func bandwidth(out string) (float64, error) {
	r, err := readFio(out)
	if err != nil {
		return 0, err
	}
	return r.Jobs[0].Read.Bandwidth / (1 << 20), nil
}

func operations(out string) (float64, error) {
	r, err := readFio(out)
	if err != nil {
		return 0, err
	}
	return r.Jobs[0].Read.IOPS, nil
}
