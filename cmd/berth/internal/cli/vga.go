package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/client"
	"github.com/berthcloud/berth/cmd/berth/internal/terminal"
)

// vgaOptions are the flags of vga.
type vgaOptions struct {
	output string
	vnc    bool
	listen string
}

func newVGACommand(g *global) *cobra.Command {
	var o vgaOptions
	cmd := &cobra.Command{
		Use:   "vga [OPTIONS] INSTANCE",
		Short: "Show the display of a VM: a screenshot, or VNC",
		Long: exits(`Write a screenshot of a VM's display to a PNG file and print its name. With --vnc
listen for VNC clients instead, and print the address and the password that they
have to give, until interrupted. The VM has been made with --graphics.

VNC is not encrypted: listen on other addresses than the loopback's, or a unix
socket's, only where nobody else is.`),
		Example: "  berth vga web -o web.png\n  berth vga --vnc web\n  berth vga --vnc --listen unix:/tmp/web.vnc web",
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runVGA(cmd.Context(), g, o, args[0])
		},
		ValidArgsFunction: completeInstances(g, alive),
	}
	f := cmd.Flags()
	f.StringVarP(&o.output, "output", "o", "", "file of the screenshot, - for standard output (default INSTANCE.png)")
	f.BoolVar(&o.vnc, "vnc", false, "listen for VNC clients")
	f.StringVar(&o.listen, "listen", "127.0.0.1:0", "where: ADDRESS:PORT or unix:PATH")
	return cmd
}

func runVGA(ctx context.Context, g *global, o vgaOptions, ref string) error {
	if o.vnc && o.output != "" {
		return usage(errors.New("-o is the file of a screenshot: leave out it or --vnc"))
	}
	if o.output == "-" && terminal.Is(g.Out) {
		return usage(errors.New("-o -: standard output is a terminal, and a screenshot is no text; name a file"))
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	if o.vnc {
		return serveVNC(ctx, g, c, o.listen, ref)
	}
	image, err := c.Screenshot(ctx, ref)
	if err != nil {
		return err
	}
	switch o.output {
	case "-":
		_, err = g.Out.Write(image)
		return err
	case "":
		o.output = ref + ".png"
	}
	if err := os.WriteFile(o.output, image, 0o600); err != nil {
		return fmt.Errorf("-o: %w", err)
	}
	fmt.Fprintln(g.Out, o.output)
	return nil
}

// serveVNC listens for VNC clients and carries each to the display.
func serveVNC(ctx context.Context, g *global, c *client.Client, address, ref string) error {
	access, err := c.VNCAccess(ctx, ref)
	if err != nil {
		return err
	}
	l, err := listenVNC(address)
	if err != nil {
		return usage(fmt.Errorf("--listen: %w", err))
	}
	defer l.Close()
	if at, err := netip.ParseAddrPort(l.Addr().String()); err == nil && !at.Addr().IsLoopback() {
		g.warn("VNC is not encrypted: whoever sees the packets to " + at.String() + " sees the display")
	}
	fmt.Fprintf(g.Out, "vnc://%s\npassword: %s\n", l.Addr(), access.Password)
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var clients sync.WaitGroup
	defer clients.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			return quietly(ctx, err)
		}
		clients.Go(func() {
			defer conn.Close()
			err := c.VNC(ctx, ref, client.Streams{Stdin: conn, Stdout: conn})
			if err != nil && ctx.Err() == nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
				g.warn(err.Error())
			}
		})
	}
}

// listenVNC listens on ADDRESS:PORT or unix:PATH, the latter for this user alone.
func listenVNC(address string) (net.Listener, error) {
	path, local := strings.CutPrefix(address, "unix:")
	if !local {
		return net.Listen("tcp", address)
	}
	old := unix.Umask(0o177)
	defer unix.Umask(old)
	return net.Listen("unix", path)
}
