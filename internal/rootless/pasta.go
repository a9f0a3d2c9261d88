package rootless

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pasta is the program that carries what the inside sends to the world.
type pasta struct {
	process *os.Process
	ended   chan struct{}
	err     error // once it has ended
}

// pastaArgs has pasta give the namespaces of a process a device with the way out, be
// their name server, and nothing else: it leads no ports, and its gateway is not the
// host's loopback, where services trust whoever connects.
func pastaArgs(holder int, pidFile string) []string {
	ns := "/proc/" + strconv.Itoa(holder) + "/ns/"
	return []string{
		"--foreground", "--quiet", "--pid", pidFile, "--userns", ns + "user", "--netns", ns + "net",
		"--ipv4-only", "--config-net", "--ns-ifname", uplinkName, "--mtu", "65520",
		"--address", uplink.Addr().String(), "--netmask", strconv.Itoa(uplink.Bits()), "--gateway", gateway.String(),
		"--dns-forward", gateway.String(), "--no-map-gw", "--no-dhcp", "--no-dhcpv6", "--no-ndp", "--no-ra",
		"--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none",
	}
}

// startPasta starts pasta on the namespaces of the holder. It returns once the way out
// is there.
func startPasta(ctx context.Context, dir string, holder int) (*pasta, error) {
	path, err := exec.LookPath("pasta")
	if err != nil {
		return nil, errors.New("pasta is not installed; install the package passt")
	}
	pidFile := filepath.Join(dir, "pasta.pid")
	if err := os.Remove(pidFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	cmd := exec.Command(path, pastaArgs(holder, pidFile)...) //nolint:forbidigo // stop ends it
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	// It must not outlive us: nobody would end it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &pasta{process: cmd.Process, ended: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	// pasta tells that it is ready by its pid file alone.
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for {
		select {
		case <-p.ended:
			return nil, fmt.Errorf("pasta: %w: %s", p.err, strings.Join(strings.Fields(said.String()), " "))
		case <-late:
			err = errors.New("pasta: not ready in time")
		case <-ctx.Done():
			err = ctx.Err()
		case <-tick.C:
			if info, serr := os.Stat(pidFile); serr == nil && info.Size() > 0 {
				return p, nil
			}
			continue
		}
		p.stop()
		return nil, err
	}
}

// keepPasta runs pasta, anew where it dies, until stop is called. Without it published
// ports work all the same.
func keepPasta(ctx context.Context, dir string, holder int, log *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	p, err := startPasta(ctx, dir, holder)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for err == nil {
			select {
			case <-ctx.Done():
				p.stop()
				return
			case <-p.ended:
			}
			log.Warn("pasta died and is started anew", "error", p.err)
			p, err = startPasta(ctx, dir, holder)
		}
		if ctx.Err() == nil {
			log.Warn("instances have no way out to the network", "error", err)
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// stop ends pasta.
func (p *pasta) stop() {
	_ = p.process.Kill()
	<-p.ended
}
