package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci"
	"github.com/berthcloud/berth/internal/oci/criu"
)

// criuFlags are the options that checkpoint and restore share.
type criuFlags struct {
	criu.Options
	empty list
}

func (f *criuFlags) add(fs *flags) {
	fs.StringVar(&f.ImagesDir, "image-path", "checkpoint", "directory of the checkpoint's files")
	fs.StringVar(&f.WorkDir, "work-path", "", "directory of CRIU's log, if another")
	fs.BoolVar(&f.TCPEstablished, "tcp-established", false, "allow open TCP connections")
	fs.BoolVar(&f.ExtUnixSk, "ext-unix-sk", false, "allow unix sockets connected to the outside")
	fs.BoolVar(&f.ShellJob, "shell-job", false, "allow a session of the caller's terminal")
	fs.BoolVar(&f.FileLocks, "file-locks", false, "allow locked files")
	fs.BoolVar(&f.AutoDedup, "auto-dedup", false, "drop from earlier pre-dumps the memory that is in a later one")
	fs.StringVar(&f.ManageCgroups, "manage-cgroups-mode", "", "CRIU's own care for cgroups: soft, full, strict, ignore")
	fs.Var(&f.empty, "empty-ns", "leave out what is in the namespace: network; may be repeated")
}

// check completes the options.
func (f *criuFlags) check() error {
	if f.ManageCgroups != "" && !criu.IsMode(f.ManageCgroups) {
		return fmt.Errorf("--manage-cgroups-mode: %q is none of soft, full, strict, ignore", f.ManageCgroups)
	}
	for _, ns := range f.empty {
		if ns != "network" {
			return fmt.Errorf("--empty-ns: %q is not network, the only one that CRIU can leave empty", ns)
		}
		f.EmptyNS |= unix.CLONE_NEWNET
	}
	return nil
}

func (c *cli) checkpoint(fs *flags, args []string) (int, error) {
	var f criuFlags
	f.add(fs)
	o := oci.CheckpointOptions{}
	fs.BoolVar(&o.PreDump, "pre-dump", false, "copy the memory only, and let the container run on")
	fs.BoolVar(&f.LeaveRunning, "leave-running", false, "let the container run on")
	fs.StringVar(&f.Parent, "parent-path", "", "directory of an earlier pre-dump, relative to --image-path")
	fs.BoolVar(&f.LinkRemap, "link-remap", false, "allow open files that have been deleted")
	fs.BoolVar(&f.TCPSkipInFlight, "tcp-skip-in-flight", false, "leave out TCP connections that are being opened")
	server := fs.String("page-server", "", "ADDRESS:PORT of a CRIU page server that takes the memory")
	args, err := fs.parse(args, 1, 1)
	if err != nil {
		return 0, err
	}
	if err := f.check(); err != nil {
		return 0, err
	}
	if *server != "" {
		colon := strings.LastIndexByte(*server, ':')
		port, err := strconv.ParseUint((*server)[colon+1:], 10, 16)
		if colon < 1 || err != nil {
			return 0, fmt.Errorf("--page-server: %q is not ADDRESS:PORT", *server)
		}
		f.PageServer, f.PagePort = (*server)[:colon], int(port)
	}
	o.ID, o.CRIU = args[0], f.Options
	return 0, c.runtime().Checkpoint(o)
}

func (c *cli) restore(fs *flags, args []string) (int, error) {
	var f criuFlags
	f.add(fs)
	var cf createFlags
	cf.add(fs)
	detach := fs.Bool("detach", false, "do not wait for the container")
	fs.BoolVar(detach, "d", false, "same as --detach")
	keep := fs.Bool("keep", false, "do not delete the container after it has ended")
	fs.Bool("no-subreaper", false, "accepted for compatibility")
	fs.StringVar(&f.LSMProfile, "lsm-profile", "", "TYPE:LABEL to use instead of the checkpoint's")
	fs.StringVar(&f.LSMMountContext, "lsm-mount-context", "", "SELinux context of mounts instead of the checkpoint's")
	args, err := fs.parse(args, 1, 1)
	if err != nil {
		return 0, err
	}
	if err := f.check(); err != nil {
		return 0, err
	}
	o := oci.RestoreOptions{CRIU: f.Options}
	if o.CreateOptions, err = cf.options(c, args[0]); err != nil {
		return 0, err
	}
	var term *terminal
	if !*detach && cf.console == "" && o.Bundle.Spec.Process.Terminal {
		if term, o.Console, err = newTerminal(); err != nil {
			return 0, err
		}
		defer term.close()
	}
	var sig *forwarder
	if !*detach {
		sig = catchSignals()
	}
	ctr, err := c.runtime().Restore(c.ctx, o)
	if o.Console >= 0 {
		unix.Close(o.Console)
	}
	if err != nil || *detach {
		return 0, err
	}
	if term != nil {
		if err := term.begin(); err != nil {
			return 0, errors.Join(err, c.runtime().Delete(c.ctx, o.ID, true))
		}
	}
	return c.attend(ctr, sig, term, *keep)
}
