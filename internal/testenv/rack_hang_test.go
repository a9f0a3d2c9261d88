package testenv

import (
	"bufio"
	"context"
	"io"
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
	stand(t, host)
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

// stand stops the host's processors.
func stand(t *testing.T, h *Host) {
	t.Helper()
	monitor, err := h.dialMonitor()
	if err != nil {
		t.Fatal(err)
	}
	defer monitor.Close()
	monitor.SetDeadline(time.Now().Add(endTime))
	if _, err := io.WriteString(monitor, "stop\ninfo status\n"); err != nil {
		t.Fatal(err)
	}
	for said := bufio.NewScanner(monitor); said.Scan(); {
		if strings.Contains(said.Text(), "paused") {
			return
		}
	}
	t.Fatal("the host's processors do not stop")
}
