package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci"
	"github.com/berthcloud/berth/internal/oci/bundle"
)

// createFlags are the options that create and run share.
type createFlags struct {
	bundle, pidFile, console string
	pidfd                    string
	preserve                 int
	noPivot, noKeyring       bool
}

func (f *createFlags) add(fs *flags) {
	fs.StringVar(&f.bundle, "bundle", ".", "bundle directory")
	fs.StringVar(&f.bundle, "b", ".", "same as --bundle")
	fs.StringVar(&f.pidFile, "pid-file", "", "file to write the pid to")
	fs.StringVar(&f.console, "console-socket", "", "unix socket that receives the terminal")
	fs.StringVar(&f.pidfd, "pidfd-socket", "", "unix socket that receives a pidfd of the first process")
	fs.IntVar(&f.preserve, "preserve-fds", 0, "pass `N` descriptors beyond the standard streams on")
	fs.BoolVar(&f.noPivot, "no-pivot", false, "chroot instead of pivot_root (weaker; for a rootfs on ramdisk)")
	fs.BoolVar(&f.noKeyring, "no-new-keyring", false, "keep the session keyring of the caller")
}

// options turns them into those of the library. The caller closes the console.
func (f *createFlags) options(c *cli, id string) (oci.CreateOptions, error) {
	o := oci.CreateOptions{
		ID: id, PidFile: f.pidFile, Console: -1, PreserveFDs: f.preserve,
		NoPivot: f.noPivot, NoNewKeyring: f.noKeyring, NoCgroups: c.cgroupManager == "disabled", Stdio: c.stdio,
	}
	if c.standby && f.preserve != 0 {
		return o, errors.New("--preserve-fds: a process that stands by has none")
	}
	if f.preserve < 0 || f.preserve > 1024 {
		return o, fmt.Errorf("--preserve-fds: %d is not between 0 and 1024", f.preserve)
	}
	for i := range f.preserve {
		if _, err := unix.FcntlInt(uintptr(3+i), unix.F_GETFD, 0); err != nil {
			return o, fmt.Errorf("--preserve-fds: descriptor %d is not open", 3+i)
		}
	}
	if n, err := strconv.Atoi(os.Getenv("LISTEN_FDS")); err == nil && n > 0 && f.preserve == 0 {
		o.PreserveFDs = n // socket activation, as runc does
	}
	var err error
	if o.Bundle, err = bundle.Load(f.bundle); err != nil {
		return o, err
	}
	if f.console != "" {
		fd, err := dial(f.console)
		if err != nil {
			return o, fmt.Errorf("--console-socket: %s: %w", f.console, err)
		}
		o.Console = fd
	}
	return o, nil
}

// dial connects to a unix socket.
func dial(path string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func (c *cli) create(fs *flags, args []string) (int, error) {
	var f createFlags
	f.add(fs)
	args, err := fs.parse(args, 1, 1)
	if err != nil {
		return 0, err
	}
	o, err := f.options(c, args[0])
	if err != nil {
		return 0, err
	}
	if o.Console >= 0 {
		defer unix.Close(o.Console)
	}
	if os.Geteuid() != 0 {
		return c.enter(o)
	}
	rt := c.runtime()
	ctr, err := rt.Create(c.ctx, o)
	if err != nil {
		return 0, err
	}
	if err := sendPidfd(f.pidfd, ctr.Pid()); err != nil {
		return 0, errors.Join(err, rt.Delete(c.ctx, o.ID, true))
	}
	return 0, nil
}

func (c *cli) start(fs *flags, args []string) (int, error) {
	args, err := fs.parse(args, 1, 1)
	if err != nil {
		return 0, err
	}
	return 0, c.runtime().Start(args[0])
}

func (c *cli) run(fs *flags, args []string) (int, error) {
	var f createFlags
	f.add(fs)
	detach := fs.Bool("detach", false, "do not wait for the container")
	fs.BoolVar(detach, "d", false, "same as --detach")
	keep := fs.Bool("keep", false, "do not delete the container after it has ended")
	fs.Bool("no-subreaper", false, "accepted for compatibility")
	args, err := fs.parse(args, 1, 1)
	if err != nil {
		return 0, err
	}
	o, err := f.options(c, args[0])
	if err != nil {
		return 0, err
	}
	if os.Geteuid() != 0 {
		return c.enter(o)
	}
	var term *terminal
	if !*detach && f.console == "" && o.Bundle.Spec.Process.Terminal {
		if term, o.Console, err = newTerminal(); err != nil {
			return 0, err
		}
		defer term.close()
	}
	return c.runCreated(o, term, f.pidfd, *detach, *keep)
}

// runCreated creates, starts and, unless detached, awaits a container.
func (c *cli) runCreated(o oci.CreateOptions, term *terminal, pidfd string, detach, keep bool) (int, error) {
	rt := c.runtime()
	var sig *forwarder
	if !detach {
		sig = catchSignals() // before there is anything they could reach
	}
	o.Attended = true
	ctr, err := rt.Create(c.ctx, o)
	if err != nil {
		return 0, err
	}
	if o.Console >= 0 {
		unix.Close(o.Console)
	}
	remove := func(err error) error {
		return errors.Join(err, rt.Delete(c.ctx, o.ID, true))
	}
	if term != nil {
		if err := term.begin(); err != nil {
			return 0, remove(err)
		}
	}
	err = sendPidfd(pidfd, ctr.Pid())
	if err == nil {
		err = ctr.Begin()
	}
	if err != nil {
		// It may still wait to be started, but is a zombie once it has been removed.
		err = remove(err)
		_ = reap(ctr.Pid())
		return 0, err
	}
	if detach {
		return 0, nil
	}
	return c.attend(ctr, sig, term, keep)
}

// attend waits for a container in the foreground and, unless it is to be kept,
// deletes it.
func (c *cli) attend(ctr *oci.Container, sig *forwarder, term *terminal, keep bool) (int, error) {
	sig.forward(ctr.Pid(), term)
	status := reap(ctr.Pid())
	if term != nil {
		term.end()
	}
	if keep {
		return status, nil
	}
	return status, c.runtime().Delete(c.ctx, ctr.ID(), true)
}

// reap waits for a child and returns its exit status as a shell would.
func reap(pid int) int {
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &ws, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 255
		}
		if ws.Signaled() {
			return 128 + int(ws.Signal())
		}
		return ws.ExitStatus()
	}
}

func (c *cli) state(fs *flags, args []string) (int, error) {
	args, err := fs.parse(args, 1, 1)
	if err != nil {
		return 0, err
	}
	ctr, err := c.runtime().Load(args[0])
	if err != nil {
		return 0, err
	}
	state, err := ctr.State()
	if err != nil {
		return 0, err
	}
	return 0, printJSON(state)
}

func printJSON(v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Printf("%s\n", b)
	return err
}

func (c *cli) kill(fs *flags, args []string) (int, error) {
	all := fs.Bool("all", false, "every process of the container, not the first alone")
	fs.BoolVar(all, "a", false, "same as --all")
	args, err := fs.parse(args, 1, 2)
	if err != nil {
		return 0, err
	}
	signal := unix.SIGTERM
	if len(args) == 2 {
		if signal, err = parseSignal(args[1]); err != nil {
			return 0, err
		}
	}
	return 0, c.runtime().Kill(args[0], signal, *all)
}

// parseSignal accepts 9, KILL, SIGKILL and RTMIN+3; 0, as kill(2), only asks whether
// there is somebody.
func parseSignal(s string) (unix.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 0 || n > 64 {
			return 0, fmt.Errorf("signal %d is not between 0 and 64", n)
		}
		return unix.Signal(n), nil
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	const rtmin, rtmax = 34, 64 // as glibc counts
	for prefix, base := range map[string]int{"RTMIN": rtmin, "RTMAX": rtmax} {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		n := 0
		if rest != "" {
			var err error
			if n, err = strconv.Atoi(rest); err != nil {
				break
			}
		}
		if base+n >= rtmin && base+n <= rtmax {
			return unix.Signal(base + n), nil
		}
	}
	if n := unix.SignalNum("SIG" + name); n != 0 {
		return n, nil
	}
	return 0, fmt.Errorf("unknown signal %q", s)
}

func (c *cli) delete(fs *flags, args []string) (int, error) {
	force := fs.Bool("force", false, "end a running container first; succeed where there is none")
	fs.BoolVar(force, "f", false, "same as --force")
	args, err := fs.parse(args, 1, 1)
	if err != nil {
		return 0, err
	}
	return 0, c.runtime().Delete(c.ctx, args[0], *force)
}

func (c *cli) pause(fs *flags, args []string) (int, error)  { return c.freeze(fs, args, true) }
func (c *cli) resume(fs *flags, args []string) (int, error) { return c.freeze(fs, args, false) }

func (c *cli) freeze(fs *flags, args []string, frozen bool) (int, error) {
	args, err := fs.parse(args, 1, 1)
	if err != nil {
		return 0, err
	}
	if frozen {
		return 0, c.runtime().Pause(args[0])
	}
	return 0, c.runtime().Resume(args[0])
}

func (c *cli) list(fs *flags, args []string) (int, error) {
	format := fs.String("format", "table", "table or json")
	fs.StringVar(format, "f", "table", "same as --format")
	quiet := fs.Bool("quiet", false, "ids only")
	fs.BoolVar(quiet, "q", false, "same as --quiet")
	if _, err := fs.parse(args, 0, 0); err != nil {
		return 0, err
	}
	list, err := c.runtime().List()
	if err != nil {
		return 0, err
	}
	states := make([]*oci.State, 0, len(list))
	for _, ctr := range list {
		s, err := ctr.State()
		if err != nil {
			return 0, err
		}
		states = append(states, s)
	}
	switch {
	case *quiet:
		for _, s := range states {
			fmt.Println(s.ID)
		}
	case *format == "json":
		return 0, printJSON(states)
	case *format == "table":
		rows := [][]string{{"ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"}}
		for _, s := range states {
			rows = append(rows, []string{s.ID, strconv.Itoa(s.Pid), string(s.Status), s.Bundle, s.Created.Format(time.RFC3339), s.Owner})
		}
		printTable(rows)
	default:
		return 0, fmt.Errorf("--format: %q is neither table nor json", *format)
	}
	return 0, nil
}

// printTable prints rows with aligned columns.
func printTable(rows [][]string) {
	var width []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], len(cell))
		}
	}
	for _, row := range rows {
		for i, cell := range row {
			if i == len(row)-1 {
				fmt.Println(cell)
				break
			}
			fmt.Printf("%-*s  ", width[i], cell)
		}
	}
}
