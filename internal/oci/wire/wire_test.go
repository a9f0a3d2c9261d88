package wire

import (
	"errors"
	"io"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/program"
)

// said returns an end from which the bytes can be received, and nothing after them.
func said(t *testing.T, b []byte, files ...int) Conn {
	t.Helper()
	ours, theirs, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ours.Close)
	defer theirs.Close()
	var rights []byte
	if len(files) > 0 {
		rights = unix.UnixRights(files...)
	}
	if err := unix.Sendmsg(theirs.FD, b, rights, nil, unix.MSG_NOSIGNAL); err != nil && len(b) > 0 {
		t.Fatal(err)
	}
	return ours
}

func TestReceive(t *testing.T) {
	failure := program.Message(program.Failed, 126, "mounts[0]")
	failure[8] = byte(unix.EPERM)
	copy(failure[len(failure)-program.LogSize:], "e proc: no\n")
	m, err := said(t, failure).Receive()
	if err != nil || m.Failure == nil || m.Failure.Code != 126 || m.Failure.Text != "mounts[0]: operation not permitted (proc: no)" {
		t.Errorf("%+v %v, %v", m, m.Failure, err)
	}
	m, err = said(t, program.Message(program.Terminal, 0, ""), 0).Receive()
	if err != nil || m.File < 0 {
		t.Errorf("%+v, %v", m, err)
	}
	CloseAll([]int{m.File})
	for name, b := range map[string][]byte{"half a header": failure[:10], "half a text": failure[:20], "no log": failure[:30]} {
		if _, err := said(t, b).Receive(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
	huge := program.Message(program.Warning, 0, "")
	huge[15] = 0xff
	if _, err := said(t, huge).Receive(); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("huge: %v", err)
	}
	if _, err := said(t, program.Message(program.Terminal, 0, ""), 0, 0).Receive(); err == nil {
		t.Error("two descriptors were taken for one")
	}
}

// FuzzReceive: whatever the process inside says, the runtime gets a message or an
// error.
func FuzzReceive(f *testing.F) {
	f.Add(program.Message(program.Failed, 127, "text"))
	f.Add(program.Message(program.Ready, 0, ""))
	f.Add([]byte{1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 100<<10 {
			t.Skip("more than the socket holds")
		}
		c := said(t, b)
		for {
			m, err := c.Receive()
			if err != nil {
				return
			}
			if m.File >= 0 || len(m.Text) > len(b) || (m.Kind == program.Failed) != (m.Failure != nil) {
				t.Fatalf("%+v", m)
			}
		}
	})
}
