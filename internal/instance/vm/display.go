package vm

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/qemu"
)

// vncFile of the run directory holds the password of the display, which stands in no
// specification, plan or command line.
const vncFile = "vnc"

// newVNCPassword returns as much secret as VNC's own check looks at: 8 characters, here
// of 5 bits each.
func newVNCPassword() string { return rand.Text()[:8] }

// guardDisplay sets the password without which the display lets nobody in.
func (h *handle) guardDisplay(ctx context.Context, m *qemu.Monitor) error {
	if !h.run.Machine.Graphics {
		return nil
	}
	password, err := os.ReadFile(h.inRun(vncFile))
	if err != nil {
		return err
	}
	return m.SetVNCPassword(ctx, string(password))
}

// errNoDisplay is the way out for a machine without graphics.
func (h *handle) errNoDisplay() error {
	if h.run.Machine.Graphics {
		return nil
	}
	return api.E("", api.Unsupported, "", errors.New("it has no display: make it with --graphics"))
}

// Screenshot returns what the display shows, as a PNG image.
func (h *handle) Screenshot(ctx context.Context) ([]byte, error) {
	if err := h.errNoDisplay(); err != nil {
		return nil, h.fail("screenshot", err)
	}
	m, err := h.monitor(ctx)
	if err != nil {
		return nil, h.fail("screenshot", err)
	}
	defer m.Close()
	image, err := m.Screenshot(ctx)
	return image, h.fail("screenshot", err)
}

// VNCPassword returns the password of the present run's display.
func (h *handle) VNCPassword(context.Context) (string, error) {
	err := h.errNoDisplay()
	if err != nil {
		return "", h.fail("vnc", err)
	}
	password, err := os.ReadFile(h.inRun(vncFile))
	return string(password), h.fail("vnc", err)
}

// VNC carries a VNC client's connection to QEMU, which gets one end of a pair of
// sockets.
func (h *handle) VNC(ctx context.Context, s instance.Streams) error {
	if err := h.errNoDisplay(); err != nil {
		return h.fail("vnc", err)
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return h.fail("vnc", err)
	}
	defer ours.Close()
	err = h.addVNC(ctx, theirs)
	theirs.Close()
	if err != nil {
		return h.fail("vnc", err)
	}
	stop := context.AfterFunc(ctx, func() { ours.Close() })
	defer stop()
	go func() {
		// A blocked reader is left behind; its next write finds the socket closed.
		_, _ = io.Copy(ours, s.Stdin)
		ours.Close() // VNC knows no half of a connection
	}()
	_, err = io.Copy(s.Stdout, ours)
	if errors.Is(err, os.ErrClosed) || errors.Is(err, unix.ECONNRESET) {
		err = nil // the client has left, or QEMU has
	}
	return h.fail("vnc", err)
}

func (h *handle) addVNC(ctx context.Context, conn *os.File) error {
	m, err := h.monitor(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	return m.AddVNC(ctx, conn)
}

// socketPair makes two connected unix sockets, of which the first does not block.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fds[0]), "vnc"), os.NewFile(uintptr(fds[1]), "vnc"), nil
}
