package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"
	"unicode"

	"github.com/berthcloud/berth/internal/oci"
	"github.com/berthcloud/berth/internal/oci/wire"
)

// cli is one invocation.
type cli struct {
	root          string
	logPath       string
	logFormat     string
	debug         bool
	systemdCgroup bool
	cgroupManager string
	entered       bool // root of the container's user namespace: see oci.Enter

	ctx     context.Context
	stdio   [3]int    // of the workload
	stderr  io.Writer // for errors and warnings
	standby bool      // in a process that carries out many command lines, see standby.go
}

// newCLI returns the invocation that this process was started for.
func newCLI() *cli {
	return &cli{ctx: context.Background(), stdio: [3]int{0, 1, 2}, stderr: os.Stderr}
}

// command is one verb of the command line.
type command struct {
	args string // as in the usage line
	help string
	run  func(c *cli, fs *flags, args []string) (int, error)
}

// commands are all verbs. A function, not a variable: building the map costs only
// the invocations that look something up.
func commands() map[string]command {
	return map[string]command{
		"checkpoint": {"[options] ID", "write a running container to files, with CRIU", (*cli).checkpoint},
		"create":     {"[options] ID", "create a container from a bundle and leave it before its first instruction", (*cli).create},
		"delete":     {"[--force] ID", "delete a stopped container", (*cli).delete},
		"events":     {"[--stats] [--interval D] ID", "print what a container uses", (*cli).events},
		"exec":       {"[options] ID COMMAND [ARG…]", "run a further command in a container", (*cli).exec},
		"features":   {"", "print what this runtime can do, as the specification's features document", (*cli).features},
		"kill":       {"[--all] ID [SIGNAL]", "send a signal to a container", (*cli).kill},
		"list":       {"[--format table|json] [--quiet]", "list containers", (*cli).list},
		"pause":      {"ID", "stop all processes of a container", (*cli).pause},
		"ps":         {"[--format table|json] ID [PS-OPTION…]", "list the processes of a container", (*cli).ps},
		"restore":    {"[options] ID", "make a container of the files of a checkpoint", (*cli).restore},
		"resume":     {"ID", "let the processes of a paused container go on", (*cli).resume},
		"run":        {"[options] ID", "create and start a container, and wait for it unless --detach is given", (*cli).run},
		"spec":       {"[--bundle DIR]", "write a config.json to begin with", (*cli).spec},
		"start":      {"ID", "let a created container run", (*cli).start},
		"state":      {"ID", "print the state of a container", (*cli).state},
		"update":     {"[options] ID", "change the limits of a container", (*cli).update},
	}
}

// version is set by the linker.
var version = "unknown"

// main carries out a command line and returns the exit status.
func (c *cli) main(args []string) int {
	if len(args) > 0 && args[0] == oci.EnteredArg {
		c.entered, args = true, args[1:]
	}
	global := newFlags("berth-oci")
	root := oci.DefaultRoot
	if os.Geteuid() != 0 {
		root = oci.UserRoot()
	}
	global.StringVar(&c.root, "root", root, "directory that keeps the state of containers")
	global.StringVar(&c.logPath, "log", "", "file to write errors and warnings to, instead of standard error")
	global.StringVar(&c.logFormat, "log-format", "text", "text or json")
	global.BoolVar(&c.debug, "debug", false, "accepted for compatibility")
	global.BoolVar(&c.systemdCgroup, "systemd-cgroup", false, "have systemd make the cgroups: linux.cgroupsPath is SLICE:PREFIX:NAME")
	global.StringVar(&c.cgroupManager, "cgroup-manager", "cgroupfs", "cgroupfs, systemd, or disabled to leave containers in the caller's cgroups (as crun)")
	global.String("rootless", "auto", "accepted for compatibility")
	global.String("criu", "", "accepted for compatibility")
	showVersion := global.Bool("version", false, "print the version")
	global.BoolVar(showVersion, "v", false, "same as --version")
	if err := global.Parse(args); err != nil {
		return c.flagError(err)
	}
	if *showVersion {
		fmt.Printf("berth-oci version %s\nspec: %s\n", version, oci.SpecVersion())
		return 0
	}
	if global.NArg() == 0 || global.Arg(0) == "help" {
		usage(os.Stdout)
		return 0
	}
	return c.dispatch(global.Arg(0), global.Args()[1:])
}

func (c *cli) dispatch(name string, args []string) int {
	cmd, ok := commands()[name]
	if !ok {
		return c.fail(fmt.Errorf("unknown command %q; see berth-oci help", name))
	}
	if c.standby && name != "create" && name != "exec" {
		return c.fail(fmt.Errorf("%s is not carried out by a process that stands by; start one for it", name))
	}
	switch c.cgroupManager {
	case "cgroupfs", "disabled":
	case "systemd":
		c.systemdCgroup = true
	default:
		return c.fail(fmt.Errorf("--cgroup-manager: %q is none of cgroupfs, systemd, disabled", c.cgroupManager))
	}
	root, err := filepath.Abs(c.root)
	if err != nil {
		return c.fail(fmt.Errorf("--root: %w", err))
	}
	c.root = root
	fs := newFlags("berth-oci " + name)
	fs.Usage = func() {
		fmt.Printf("usage: berth-oci %s %s\n%s\n", name, cmd.args, cmd.help)
		fs.SetOutput(os.Stdout)
		fs.PrintDefaults()
	}
	status, err := cmd.run(c, fs, args)
	if err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		code := c.fail(err)
		if code == 1 && status != 0 {
			return status
		}
		return code
	}
	return status
}

// errFlags marks a command line that does not parse.
var errFlags = errors.New("wrong command line")

// flags parses the options of one command and checks the number of arguments.
type flags struct{ *flag.FlagSet }

func newFlags(name string) *flags {
	fs := &flags{flag.NewFlagSet(name, flag.ContinueOnError)}
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	return fs
}

// parse returns the arguments after the options; least and most bound their number.
func (fs *flags) parse(args []string, least, most int) ([]string, error) {
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %s: %w", errFlags, fs.Name(), err)
	}
	if n := fs.NArg(); n < least || most >= 0 && n > most {
		return nil, fmt.Errorf("%w: %s: %d arguments given; see %s --help", errFlags, fs.Name(), n, fs.Name())
	}
	return fs.Args(), nil
}

func (c *cli) flagError(err error) int {
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	return c.fail(err)
}

func usage(w io.Writer) {
	fmt.Fprint(w, "usage: berth-oci [--root DIR] [--log FILE] [--log-format text|json] COMMAND …\n\n")
	all := commands()
	names := make([]string, 0, len(all))
	for n := range all {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		fmt.Fprintf(w, "  %-10s %s\n", n, all[n].help)
	}
}

// runtime returns the library, with its warnings going to the log.
func (c *cli) runtime() *oci.Runtime {
	return &oci.Runtime{Root: c.root, SystemdCgroup: c.systemdCgroup, Entered: c.entered, Siblings: c.standby, Warn: func(text string) { c.log("warning", text) }}
}

// fail reports an error and returns its exit status: that of the workload where it
// is about the workload, else 1.
func (c *cli) fail(err error) int {
	text := oneLine(err.Error())
	c.log("error", text)
	if c.logPath != "" { // engines read the log, people read the terminal
		fmt.Fprintln(c.stderr, "berth-oci: "+text)
	}
	if f, ok := errors.AsType[*wire.Failure](err); ok {
		return f.Code
	}
	return 1
}

// log writes one line to the log, in the format that engines expect of runc.
func (c *cli) log(level, text string) {
	w := c.stderr
	if c.logPath != "" {
		f, err := os.OpenFile(c.logPath, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_SYNC, 0o644)
		if err == nil {
			defer f.Close()
			w = f
		}
	}
	if c.logFormat == "json" {
		line, _ := json.Marshal(map[string]string{"level": level, "msg": text, "time": time.Now().UTC().Format(time.RFC3339)})
		fmt.Fprintf(w, "%s\n", line)
		return
	}
	if w == c.stderr {
		if level == "error" {
			level = ""
		} else {
			level += ": "
		}
		fmt.Fprintf(w, "berth-oci: %s%s\n", level, text)
		return
	}
	fmt.Fprintf(w, "time=%q level=%s msg=%q\n", time.Now().UTC().Format(time.RFC3339), level, text)
}

// oneLine keeps text that came from a container or a kernel from breaking out of
// its line.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, unicode.IsControl), " ")
}
