package standby

import (
	"context"
	"encoding/json"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Handler carries out a command line without the program's name. stdio are its
// standard streams, which it does not close. It returns the exit status and what
// there is to say, and stops as soon as it can when ctx ends.
type Handler func(ctx context.Context, args []string, stdio [3]int) (status int, text string)

// Is reports whether the arguments of the process (os.Args) ask it to stand by.
func Is(args []string) bool { return len(args) == 2 && args[1] == Command }

// Serve stands by: it carries out the command lines that come, until the parent
// closes the socket, and returns the exit status of the program.
func Serve(handle Handler) int {
	unix.CloseOnExec(socketFD)
	var running sync.WaitGroup
	defer running.Wait()
	buf := make([]byte, maxRequest)
	for {
		n, files, err := receive(socketFD, buf)
		if err != nil {
			return 1
		}
		if n == 0 {
			closeAll(files)
			return 0
		}
		var req request
		if json.Unmarshal(buf[:n], &req) != nil || len(files) != 4 {
			closeAll(files)
			continue
		}
		running.Go(func() { carryOut(handle, req, files) })
	}
}

func carryOut(handle Handler, req request, files []int) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	back := os.NewFile(uintptr(files[3]), "answer")
	defer back.Close()
	if _, err := back.Write([]byte{seen}); err != nil {
		closeAll(files[:3])
		return // the caller has given up already
	}
	go func() {
		var b [1]byte
		_, _ = back.Read(b[:]) // nothing is ever sent: the caller has given up
		cancel()
	}()
	status, text := handle(ctx, req.Args, [3]int(files[:3]))
	closeAll(files[:3])
	body, err := json.Marshal(answer{status, text})
	if err == nil {
		_, _ = back.Write(body) // who has given up does not read it
	}
}
