package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthcloud/berth/internal/oci"
	"github.com/berthcloud/berth/internal/oci/bundle"
)

func (c *cli) features(fs *flags, args []string) (int, error) {
	if _, err := fs.parse(args, 0, 0); err != nil {
		return 0, err
	}
	return 0, printJSON(oci.Features())
}

func (c *cli) spec(fs *flags, args []string) (int, error) {
	dir := fs.String("bundle", ".", "directory to write config.json to")
	fs.StringVar(dir, "b", ".", "same as --bundle")
	rootless := fs.Bool("rootless", false, "of a container that an ordinary user, the one who asks, can run")
	if _, err := fs.parse(args, 0, 0); err != nil {
		return 0, err
	}
	s := oci.ExampleSpec()
	if *rootless {
		s = oci.ExampleUserSpec(os.Geteuid(), os.Getegid())
	}
	b, err := json.MarshalIndent(s, "", "\t")
	if err != nil {
		return 0, err
	}
	// O_EXCL: a config.json that someone has edited is not overwritten.
	f, err := os.OpenFile(filepath.Join(*dir, bundle.ConfigName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return 0, err
	}
	_, err = f.Write(append(b, '\n'))
	return 0, errors.Join(err, f.Close())
}

func (c *cli) ps(fs *flags, args []string) (int, error) {
	format := fs.String("format", "table", "table or json")
	fs.StringVar(format, "f", "table", "same as --format")
	args, err := fs.parse(args, 1, -1)
	if err != nil {
		return 0, err
	}
	pids, err := c.runtime().Pids(args[0])
	if err != nil {
		return 0, err
	}
	if *format == "json" {
		if pids == nil {
			pids = []int{}
		}
		return 0, printJSON(pids)
	}
	options := args[1:]
	if len(options) == 0 {
		options = []string{"-ef"}
	}
	out, err := exec.Command("ps", options...).Output() //nolint:forbidigo // it ends by itself
	if err != nil {
		return 0, fmt.Errorf("ps: %w", err)
	}
	return 0, printProcesses(string(out), pids)
}

// printProcesses prints those lines of ps(1) that are about the pids.
func printProcesses(out string, pids []int) error {
	wanted := map[string]bool{}
	for _, p := range pids {
		wanted[strconv.Itoa(p)] = true
	}
	lines := strings.Split(strings.TrimRight(out, "\n"), "\n")
	column := -1
	for i, name := range strings.Fields(lines[0]) {
		if name == "PID" {
			column = i
		}
	}
	if column < 0 {
		return errors.New("ps: its output has no column PID; choose other options")
	}
	fmt.Println(lines[0])
	for _, l := range lines[1:] {
		if f := strings.Fields(l); len(f) > column && wanted[f[column]] {
			fmt.Println(l)
		}
	}
	return nil
}

// event is what events prints, in the shape of runc.
type event struct {
	Type string `json:"type"`
	ID   string `json:"id"`
	Data any    `json:"data,omitempty"`
}

func (c *cli) events(fs *flags, args []string) (int, error) {
	once := fs.Bool("stats", false, "print once and end")
	interval := fs.Duration("interval", 5*time.Second, "time between two lines")
	args, err := fs.parse(args, 1, 1)
	if err != nil {
		return 0, err
	}
	if *interval <= 0 {
		return 0, errors.New("--interval: must be greater than 0")
	}
	rt := c.runtime()
	ctr, err := rt.Load(args[0])
	if err != nil {
		return 0, err
	}
	kills, err := rt.OOMKills(args[0])
	if err != nil {
		return 0, err
	}
	for out := json.NewEncoder(os.Stdout); ; time.Sleep(*interval) { //nolint:forbidigo // the interval the user asked for
		status, err := ctr.Status()
		if err != nil {
			return 0, err
		}
		if status == specs.StateStopped {
			if *once {
				return 0, fmt.Errorf("%s: %w", args[0], oci.ErrNotRunning)
			}
			return 0, nil
		}
		stats, err := rt.Stats(args[0])
		if err != nil {
			return 0, err
		}
		if err := out.Encode(event{"stats", args[0], newStatsData(stats)}); err != nil || *once {
			return 0, err
		}
		if n, err := rt.OOMKills(args[0]); err == nil && n > kills {
			kills = n
			if err := out.Encode(event{Type: "oom", ID: args[0]}); err != nil {
				return 0, err
			}
		}
	}
}
