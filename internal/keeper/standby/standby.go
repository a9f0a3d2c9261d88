// Package standby keeps a program loaded, so that carrying out one more of its
// command lines does not cost another start of it: more than a millisecond of
// processor time, and all that a fresh process has to look up anew.
//
//	keeper                                     program (a child of the keeper)
//	starts it with a socket ────────────────▶  waits
//	request, standard streams, answer's end ▶  carries the command line out
//	◀────────────────────────────────── seen
//	◀──────────────────────── answer, or end of file: it has died
//	closes the answer's other end ──────────▶  the caller has given up
//	closes the socket when it is idle ──────▶  ends
//
// Command lines run side by side. One that leaves a process behind makes it the
// keeper's child (CLONE_PARENT), as if the program had been started and had ended.
package standby

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Command is the argument of a program that makes it stand by; the socket is the
// descriptor with the number socketFD.
const Command = "standby"

const socketFD = 3

// maxRequest bounds a request, in bytes.
const maxRequest = 64 << 10

// request is one command line. With it come four descriptors: the standard streams
// and the answer's end.
type request struct {
	Args []string // without the program's name
}

// seen is the first byte of an answer: the command line has been taken up. A process
// that dies without it has done nothing of it.
const seen = '!'

// answer, as JSON, says how it ended.
type answer struct {
	Status int
	Text   string // what it had to say
}

// receive reads one message and its descriptors, closed on exec.
func receive(fd int, buf []byte) (n int, files []int, err error) {
	oob := make([]byte, unix.CmsgSpace(4*4))
	var oobn, flags int
	for {
		n, oobn, flags, _, err = unix.Recvmsg(fd, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return 0, nil, os.NewSyscallError("recvmsg", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	for i := range messages {
		fds, perr := unix.ParseUnixRights(&messages[i])
		files, err = append(files, fds...), errors.Join(err, perr)
	}
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.New("a message was cut off")
	}
	if err != nil {
		closeAll(files)
		return 0, nil, err
	}
	return n, files, nil
}

func closeAll(files []int) {
	for _, fd := range files {
		unix.Close(fd)
	}
}
