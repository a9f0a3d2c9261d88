package main

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// den runs functions on threads of their own, which do not see the v2 hierarchy
// of a hybrid cgroup layout: crun refuses to work where it does. What all
// runtimes are started from is thus alike, and costs none of them a command.
type den struct{ work chan func() }

// newDen makes a den of n threads.
func newDen(n int) (*den, error) {
	d := &den{work: make(chan func())}
	ready := make(chan error)
	for range n {
		go func() {
			runtime.LockOSThread() // for good: the thread ends with its goroutine
			ready <- hideUnified()
			for f := range d.work {
				f()
			}
		}()
	}
	var err error
	for range n {
		if e := <-ready; e != nil {
			err = fmt.Errorf("private mount namespace: %w", e)
		}
	}
	if err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// hideUnified gives the calling thread a mount namespace of its own.
func hideUnified() error {
	const unified = "/sys/fs/cgroup/unified"
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil { // implies CLONE_FS: see unshare(2)
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if _, err := os.Stat(unified); err != nil {
		return nil
	}
	return unix.Unmount(unified, unix.MNT_DETACH)
}

// run runs f in the den and waits for it. A process that f starts inherits the
// mount namespace, for Go starts it from the thread that asks.
func (d *den) run(f func() error) error {
	done := make(chan error)
	d.work <- func() { done <- f() }
	return <-done
}

// close ends the threads, once what runs in them has ended.
func (d *den) close() { close(d.work) }
