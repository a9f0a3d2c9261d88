package testenv

import (
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"time"
)

// endTime is more than a host takes to end a command that was killed, unless it
// has stopped running anything at all.
const endTime = 30 * time.Second

// hung returns "" once the killed job has ended. A host that cannot end one within
// endTime runs no more programs: it loses its power, so that whatever else waits for it
// ends at once, and hung says where its processors were.
func (h *Host) hung(j *Job) string {
	select {
	case <-j.done:
		return ""
	case <-time.After(endTime):
	}
	where := h.processors()
	h.qemu.Process.Kill()
	return fmt.Sprintf("%s hangs and lost its power. Its processors:\n%sThe end of its console:\n%s", h.Name, where, tail(h.Console(), 2000))
}

// samples is how often the processors of a host that hangs are looked at.
const samples = 5

// registers finds the lines of QEMU's "info registers" worth a reader's time: the
// kernel is loaded where its symbols say (nokaslr).
var registers = regexp.MustCompile(`(?m)^(CPU#|RIP=|RSI=|CS =|CR0=).*`)

// processors says what every processor does, several times over.
func (h *Host) processors() string {
	monitor, err := h.dialMonitor()
	if err != nil {
		return err.Error() + "\n"
	}
	defer monitor.Close()
	monitor.SetDeadline(time.Now().Add(endTime))
	for range samples {
		if _, err := io.WriteString(monitor, "info registers -a\n"); err != nil {
			return err.Error() + "\n"
		}
	}
	io.WriteString(monitor, "quit\n")
	text, _ := io.ReadAll(monitor)
	return strings.Join(registers.FindAllString(string(text), -1), "\n") + "\n"
}

func (h *Host) dialMonitor() (net.Conn, error) {
	return net.DialTimeout("unix", h.path("monitor"), time.Second)
}
