package attack

import (
	"net"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// runTerminal runs the container with a terminal, and returns what it wrote
// there as its output.
func (a *testbed) runTerminal() result {
	a.t.Helper()
	a.spec.Process.Terminal = true
	a.write()
	socket := filepath.Join(a.dir, "tty")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	a.must(err)
	defer l.Close()
	text := make(chan string, 1)
	go func() { text <- readTerminal(l) }()
	r := a.oci("run", "--detach", "--bundle", filepath.Join(a.dir, "bundle"), "--console-socket", socket, a.id)
	if r.code != 0 {
		l.Close()
		<-text
		return r
	}
	r.stdout = <-text
	a.oci("delete", "--force", a.id)
	return r
}

// readTerminal receives a terminal and reads it until its last process has ended.
func readTerminal(l *net.UnixListener) string {
	if err := l.SetDeadline(time.Now().Add(patience)); err != nil {
		return ""
	}
	conn, err := l.AcceptUnix()
	if err != nil {
		return ""
	}
	defer conn.Close()
	name, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(name, oob)
	if err != nil {
		return ""
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) == 0 {
		return ""
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return ""
	}
	defer unix.Close(fds[0])
	var said strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := unix.Read(fds[0], buf)
		if n <= 0 || err != nil { // EIO: nobody has the other side open
			return strings.ReplaceAll(said.String(), "\r\n", "\n")
		}
		said.Write(buf[:n])
	}
}
