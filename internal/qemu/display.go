package qemu

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// maxImage bounds a screenshot, in bytes: QEMU writes what it wants.
const maxImage = 64 << 20

// Screenshot returns what the machine's display shows, as a PNG image. QEMU writes it
// into a file in memory, the only one that it is handed, and which counts as memory of
// its own cgroup; what comes back is looked at as a stranger's.
func (m *Monitor) Screenshot(ctx context.Context) ([]byte, error) {
	fd, err := unix.MemfdCreate("screenshot", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	file := os.NewFile(uintptr(fd), "screenshot")
	defer file.Close()
	// A set's descriptor is used as it is: it has to be open for writing alone.
	writer, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", file.Fd()), os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	defer writer.Close()
	var set struct {
		ID int `json:"fdset-id"`
	}
	if err := m.executeWith(ctx, "add-fd", nil, &set, writer); err != nil {
		return nil, err
	}
	err = m.Execute(ctx, "screendump", map[string]any{"filename": fmt.Sprintf("/dev/fdset/%d", set.ID), "format": "png"}, nil)
	if rerr := m.Execute(ctx, "remove-fd", map[string]int{"fdset-id": set.ID}, nil); err == nil {
		err = rerr
	}
	if err != nil {
		return nil, err
	}
	return readPNG(io.NewSectionReader(file, 0, maxImage))
}

const pngSignature = "\x89PNG\r\n\x1a\n"

// readPNG reads one PNG image and leaves what follows it. It checks the frame alone:
// signature, chunks with their sums, header first and end last (PNG, third edition, 5).
func readPNG(r io.Reader) ([]byte, error) {
	var image bytes.Buffer
	r = io.TeeReader(r, &image)
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil || string(head[:]) != pngSignature {
		return nil, errors.New("QEMU wrote no PNG image")
	}
	for first := true; ; first = false {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return nil, fmt.Errorf("QEMU's PNG image has no end: %w", err)
		}
		size, kind := binary.BigEndian.Uint32(head[:4]), string(head[4:])
		if size > maxImage || first != (kind == "IHDR") {
			return nil, fmt.Errorf("QEMU's PNG image has a chunk %q of %d bytes where there can be none", kind, size)
		}
		sum := crc32.NewIEEE()
		sum.Write(head[4:])
		if _, err := io.CopyN(sum, r, int64(size)); err != nil {
			return nil, fmt.Errorf("QEMU's PNG image has no end: %w", err)
		}
		var want [4]byte
		if _, err := io.ReadFull(r, want[:]); err != nil || binary.BigEndian.Uint32(want[:]) != sum.Sum32() {
			return nil, fmt.Errorf("QEMU's PNG image is damaged in its chunk %q", kind)
		}
		if kind == "IEND" {
			return image.Bytes(), nil
		}
	}
}

// SetVNCPassword sets what a VNC client has to know, at most 8 characters: more are
// not looked at (RFC 6143 section 7.2.2).
func (m *Monitor) SetVNCPassword(ctx context.Context, password string) error {
	return m.Execute(ctx, "set_password", map[string]string{"protocol": "vnc", "password": password}, nil)
}

// AddVNC hands a connected socket to the machine's VNC server, as one more client's.
// The caller may close it afterwards.
func (m *Monitor) AddVNC(ctx context.Context, conn *os.File) error {
	const name = "vnc-client"
	if err := m.executeWith(ctx, "getfd", map[string]string{"fdname": name}, nil, conn); err != nil {
		return err
	}
	return m.Execute(ctx, "add_client", map[string]any{"protocol": "vnc", "fdname": name, "skipauth": false}, nil)
}

// executeWith is Execute of a command that takes an open file along.
func (m *Monitor) executeWith(ctx context.Context, command string, arguments, result any, file *os.File) error {
	conn, ok := m.conn.(*net.UnixConn)
	if !ok {
		return errors.New("QEMU's monitor is no unix socket, by which alone a file can be handed over")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.bound(ctx)()
	return contextError(ctx, m.execute(command, arguments, result, func(line []byte) error {
		_, _, err := conn.WriteMsgUnix(line, unix.UnixRights(int(file.Fd())), nil)
		return err
	}))
}
