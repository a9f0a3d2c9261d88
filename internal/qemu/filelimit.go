package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// FileLimit is the command of the launcher that SetFileLimit carries out.
const FileLimit = "file-limit"

// RaiseFileLimit lets a program that runs by the launcher as a user make files of so
// many bytes. Another process of the same user may say so (prlimit(2)), which the
// launcher becomes: for any other one it takes a right that not even every root has.
func RaiseFileLimit(ctx context.Context, launcher string, pid int, uid uint32, size int64) error {
	cmd := exec.CommandContext(ctx, launcher, FileLimit, strconv.Itoa(pid), strconv.FormatUint(uint64(uid), 10), strconv.FormatInt(size, 10))
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		return errors.Join(ctx.Err(), fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String())))
	}
	return nil
}

// SetFileLimit is RaiseFileLimit in the launcher, whose process, user and size are
// args.
func SetFileLimit(args []string) error {
	pid, err1 := strconv.Atoi(args[0])
	uid, err2 := strconv.Atoi(args[1])
	size, err3 := strconv.ParseUint(args[2], 10, 63)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	if err := errors.Join(syscall.Setgroups([]int{}), syscall.Setresgid(uid, uid, uid), syscall.Setresuid(uid, uid, uid)); err != nil {
		return fmt.Errorf("become user %d: %w", uid, err)
	}
	var limit unix.Rlimit
	err := unix.Prlimit(pid, unix.RLIMIT_FSIZE, nil, &limit)
	if err == nil {
		limit.Cur = min(size, limit.Max)
		err = unix.Prlimit(pid, unix.RLIMIT_FSIZE, &limit, nil)
	}
	return os.NewSyscallError("prlimit", err)
}
