package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// workName is what this program is called where it is the workload itself, native
// or in a container: "work KIND" prints how much it got done per second.
const workName = "work"

// isWork reports whether the program was started as a workload.
func isWork() bool { return filepath.Base(os.Args[0]) == workName }

// span is how long a workload works: long beside the clock, short beside what else
// the machine does.
const span = 100 * time.Millisecond

// work does what its one argument says, and returns the exit status.
func work(args []string) int {
	figure, err := 0.0, errors.New("want one of cpu, copy, pages, calls, or reads or stream with a file")
	if len(args) == 2 {
		switch args[0] {
		case "reads":
			figure, err = readAtRandom(args[1])
		case "stream":
			figure, err = readInOrder(args[1])
		}
	}
	if len(args) == 1 {
		switch args[0] {
		case "cpu":
			figure, err = perSecond(spin)
		case "copy":
			figure, err = perSecond(copier())
		case "pages":
			figure, err = perSecond(touch)
		case "calls":
			figure, err = perSecond(calls)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, workName+":", err)
		return 1
	}
	fmt.Println(figure)
	return 0
}

// perSecond calls f, which says how much it did, again and again.
func perSecond(f func() (float64, error)) (float64, error) {
	total, start := 0.0, time.Now()
	for time.Since(start) < span {
		n, err := f()
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total / time.Since(start).Seconds(), nil
}

// spin makes a million random numbers, in registers alone.
func spin() (float64, error) {
	r, sum := rand.NewPCG(1, 2), uint64(0)
	for range 1_000_000 {
		sum ^= r.Uint64()
	}
	if sum == 0 { // or the compiler leaves the loop out
		return 0, errors.New("unlikely")
	}
	return 1, nil
}

// block is what copies and fresh pages are counted by, in MiB: more than a cache.
const block = 64

// copier copies memory that is there already.
func copier() func() (float64, error) {
	from, to := make([]byte, block<<20), make([]byte, block<<20)
	for i := 0; i < len(from); i += os.Getpagesize() {
		from[i], to[i] = 1, 1
	}
	return func() (float64, error) { return float64(copy(to, from)) / (1 << 20), nil }
}

// touch asks the kernel for memory, writes to every page and gives it back: each
// page is cleared and charged to the cgroup.
func touch() (float64, error) {
	m, err := unix.Mmap(-1, 0, block<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return 0, os.NewSyscallError("mmap", err)
	}
	for i := 0; i < len(m); i += os.Getpagesize() {
		m[i] = 1
	}
	return block, os.NewSyscallError("munmap", unix.Munmap(m))
}

// calls makes ten thousand system calls that do nothing, so that what a seccomp
// filter costs is seen.
func calls() (float64, error) {
	for range 10_000 {
		unix.Getppid()
	}
	return 0.01, nil
}

// What one run reads of a file, past the cache: so many pages, and so many MiB.
const (
	reads    = 8192
	streamed = 8 * deviceMiB
)

// readAtRandom reads pages of a file, and returns how many in a second.
func readAtRandom(path string) (float64, error) {
	random := rand.New(rand.NewPCG(1, 2))
	return readDirect(path, 4096, reads, func(size int64) int64 { return random.Int64N(size/4096) * 4096 })
}

// readInOrder reads a file from its begin to its end several times, and returns how many
// MiB in a second.
func readInOrder(path string) (float64, error) {
	at := int64(0)
	return readDirect(path, 1<<20, streamed, func(size int64) int64 {
		now := at
		at = (at + 1<<20) % size
		return now
	})
}

// readDirect reads blocks of a file past the cache, and returns how many in a second.
func readDirect(path string, block, count int, next func(size int64) int64) (float64, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	buf, err := unix.Mmap(-1, 0, block, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return 0, os.NewSyscallError("mmap", err)
	}
	start := time.Now()
	for range count {
		if _, err := file.ReadAt(buf, next(info.Size())); err != nil {
			return 0, err
		}
	}
	return float64(count) / time.Since(start).Seconds(), nil
}
