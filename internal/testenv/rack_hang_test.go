package testenv

import (
	"context"
	"strings"
	"testing"
	"time"
)

// TestRackHang: a host that answers no more loses its power, and what waits for it ends
// with the state of its processors.
func TestRackHang(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a VM")
	}
	Check(t)
	host := NewRack(t, 1, nil).Hosts[0]
	monitor(t, host, "stop\n")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, _, _, err := host.Try(ctx, "true")
	if err == nil || !strings.Contains(err.Error(), "host1 hangs") || strings.Count(err.Error(), "RIP=") < 2 {
		t.Errorf("%v", err)
	}
	if _, _, _, err := host.Try(t.Context(), "true"); err == nil {
		t.Error("a host without power ran a command")
	}
}

// monitor gives a line to the host's QEMU.
func monitor(t *testing.T, h *Host, line string) {
	t.Helper()
	conn, err := h.dialMonitor()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(line)); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(time.Second))
	for buf := make([]byte, 4096); ; {
		if n, err := conn.Read(buf); err != nil || strings.HasSuffix(string(buf[:n]), "(qemu) ") {
			return
		}
	}
}
