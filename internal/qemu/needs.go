package qemu

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// linkerCache is where the dynamic linker looks a library's name up first.
const linkerCache = "/etc/ld.so.cache"

// Needs returns what an emulator opens by name, whatever machine it emulates: itself
// and its libraries, those of its modules that Berth uses, its firmware. It asks the program
// and the dynamic linker, which takes some 30 ms.
func Needs(ctx context.Context, emulator string) ([]Shown, error) {
	needs, err := Libraries(ctx, emulator)
	if err != nil {
		return nil, err
	}
	linker, err := linkerOf(emulator)
	if err != nil {
		return nil, err
	}
	for _, module := range modules(needs) {
		more, err := loaded(ctx, linker, module)
		if err != nil {
			return nil, err
		}
		needs = append(needs, more...)
	}
	out, err := exec.CommandContext(ctx, emulator, "-L", "help").Output()
	if err != nil {
		return nil, fmt.Errorf("ask %s for its firmware: %w", emulator, err)
	}
	for line := range strings.Lines(string(out)) {
		dir := filepath.Clean(strings.TrimSpace(line))
		if _, err := os.Stat(dir); err == nil && filepath.IsAbs(dir) {
			needs = append(needs, Shown{Path: dir})
		}
	}
	return unique(needs), nil
}

// Libraries returns a program itself and what the dynamic linker loads with it.
func Libraries(ctx context.Context, program string) ([]Shown, error) {
	linker, err := linkerOf(program)
	if err != nil {
		return nil, err
	}
	if linker == "" {
		return []Shown{{Path: program, Mode: "x"}}, nil // linked statically
	}
	needs, err := loaded(ctx, linker, program)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(linkerCache); err == nil {
		needs = append(needs, Shown{Path: linkerCache})
	}
	return unique(needs), nil
}

// unique sorts a list by path and leaves out what stands there twice.
func unique(list []Shown) []Shown {
	slices.SortFunc(list, func(a, b Shown) int { return strings.Compare(a.Path, b.Path) })
	return slices.Compact(list)
}

// moduleNames are patterns of modules that some machine of Plan's needs.
var moduleNames = []string{"accel-*.so", "hw-display-virtio-gpu.so", "hw-display-virtio-gpu-pci.so"}

// modules finds what distributions build as modules of QEMU's and put into a directory
// beside the libraries: accelerators, and the display of machines without VGA.
func modules(libraries []Shown) (paths []string) {
	seen := map[string]bool{}
	for _, l := range libraries {
		for _, usr := range []string{"", "/usr"} {
			dir := usr + filepath.Dir(l.Path)
			if seen[dir] {
				continue
			}
			seen[dir] = true
			for _, name := range moduleNames {
				// A pattern without a meta character beside the star cannot be wrong.
				found, _ := filepath.Glob(filepath.Join(dir, "qemu", name))
				paths = append(paths, found...)
			}
		}
	}
	return paths
}

// loaded returns a program or module and what a dynamic linker loads with it.
func loaded(ctx context.Context, linker, object string) ([]Shown, error) {
	out, err := exec.CommandContext(ctx, linker, "--list", object).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("ask %s for the libraries of %s: %w: %s", linker, object, err, strings.TrimSpace(string(out)))
	}
	libraries, err := parseLibraries(string(out))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", object, err)
	}
	needs := []Shown{{Path: object, Mode: "x"}}
	for _, path := range libraries {
		needs = append(needs, Shown{Path: path, Mode: "x"})
	}
	return needs, nil
}

// linkerOf returns the dynamic linker that a program names, "" where it needs none.
func linkerOf(program string) (string, error) {
	file, err := elf.Open(program)
	if err != nil {
		return "", &os.PathError{Op: "read", Path: program, Err: err}
	}
	defer file.Close()
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP && p.Filesz < 4096 {
			path := make([]byte, p.Filesz)
			if _, err := p.ReadAt(path, 0); err != nil {
				return "", &os.PathError{Op: "read", Path: program, Err: err}
			}
			return strings.TrimRight(string(path), "\x00"), nil
		}
	}
	return "", nil
}

// parseLibraries reads the dynamic linker's list:
//
//	linux-vdso.so.1 (0x00007ffc…)
//	libz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007fea…)
//	/lib64/ld-linux-x86-64.so.2 (0x00007fea…)
func parseLibraries(list string) (paths []string, err error) {
	for line := range strings.Lines(list) {
		name, path, found := strings.Cut(strings.TrimSpace(line), " => ")
		if !found {
			path = name
		}
		path, _, _ = strings.Cut(path, " (")
		switch {
		case filepath.IsAbs(path):
			paths = append(paths, path)
		case found:
			return nil, errors.New("the library " + name + " is missing")
		}
	}
	return paths, nil
}
