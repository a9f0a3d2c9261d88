package link_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/berthcloud/berth/internal/link"
	"github.com/berthcloud/berth/internal/link/linktest"
)

func TestMain(m *testing.M) { os.Exit(linktest.Main(m)) }

var gateway = netip.MustParseAddr("10.77.0.1")

func bridge(t *testing.T) link.Bridge {
	t.Helper()
	linktest.Root(t)
	b := link.Bridge{Name: "lt0", MAC: "02:be:00:00:00:01", Address: netip.PrefixFrom(gateway, 24)}
	if err := link.EnsureBridge(b); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := link.Delete(b.Name); err != nil {
			t.Error(err)
		}
		links, err := netlink.LinkList()
		if err != nil || len(links) > 1 {
			t.Errorf("left behind: %v, %v", links, err)
		}
	})
	return b
}

func veth(n int) link.Veth {
	addr := netip.AddrFrom4([4]byte{10, 77, 0, byte(n)})
	return link.Veth{
		HostName: fmt.Sprintf("ltv%d", n), Bridge: "lt0", Name: "eth0", MAC: fmt.Sprintf("02:be:00:00:01:%02x", n),
		Addresses: []netip.Prefix{netip.PrefixFrom(addr, 24)}, Gateway: gateway,
	}
}

// plug plugs veth n into a new namespace.
func plug(t *testing.T, ns *linktest.NS, v link.Veth) {
	t.Helper()
	if err := link.Prepare(ns.FD(), link.ContainerSysctls(1<<31-1)); err != nil {
		t.Fatal(err)
	}
	if err := link.Plug(ns.FD(), v); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := link.Delete(v.HostName); err != nil {
			t.Error(err)
		}
	})
}

// talk opens a connection to the address from the namespace (nil: from the
// host's side) and returns what the server there sends.
func talk(ns *linktest.NS, addr string, timeout time.Duration) (string, error) {
	var answer string
	do := func() error {
		c, err := net.DialTimeout("tcp4", addr, timeout)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(timeout))
		data, err := io.ReadAll(c)
		answer = string(data)
		return err
	}
	if ns == nil {
		return answer, do()
	}
	err := ns.Do(do)
	return answer, err
}

// serve answers every connection to the port in the namespace with the
// client's address.
func serve(t *testing.T, ns *linktest.NS, addr string) {
	t.Helper()
	var l net.Listener
	err := ns.Do(func() (err error) {
		l, err = net.Listen("tcp4", addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			io.WriteString(c, host)
			c.Close()
		}
	}()
}

func TestPlug(t *testing.T) {
	bridge(t)
	for _, kind := range []string{"plain", "in a user namespace"} {
		t.Run(kind, func(t *testing.T) {
			newNS := linktest.New
			if kind != "plain" {
				newNS = linktest.NewInUserNS
			}
			a, b := newNS(t), newNS(t)
			plug(t, a, veth(2))
			plug(t, b, veth(3))
			serve(t, a, ":80")
			for from, want := range map[*linktest.NS]string{b: "10.77.0.3", nil: "10.77.0.1", a: "10.77.0.2"} {
				if got, err := talk(from, "10.77.0.2:80", 10*time.Second); err != nil || got != want {
					t.Errorf("from %s: %q, %v", want, got, err)
				}
			}
			err := a.Do(func() error {
				for name, want := range link.ContainerSysctls(1<<31 - 1) {
					got, err := link.Sysctl(name)
					if err != nil || strings.Join(strings.Fields(got), " ") != want {
						t.Errorf("%s = %q, %v", name, got, err)
					}
				}
				eth0, err := netlink.LinkByName("eth0")
				if err != nil {
					return err
				}
				six, err := netlink.AddrList(eth0, netlink.FAMILY_V6)
				if err != nil || len(six) > 0 {
					t.Errorf("IPv6 addresses: %v, %v", six, err)
				}
				if eth0.Attrs().HardwareAddr.String() != veth(2).MAC {
					t.Errorf("MAC is %s", eth0.Attrs().HardwareAddr)
				}
				routes, err := netlink.RouteList(eth0, netlink.FAMILY_V4)
				if err != nil || len(routes) != 2 {
					t.Errorf("routes: %v", routes)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
			if ports, err := link.Ports("lt0"); err != nil || len(ports) != 2 {
				t.Errorf("ports: %v, %v", ports, err)
			}
		})
	}
}

// TestPlugAgain: the device of a namespace that is still going away is in
// nobody's way.
func TestPlugAgain(t *testing.T) {
	bridge(t)
	old, ns := linktest.New(t), linktest.New(t)
	plug(t, old, veth(2))
	plug(t, ns, veth(2))
	serve(t, ns, ":80")
	if got, err := talk(nil, "10.77.0.2:80", 10*time.Second); err != nil || got != "10.77.0.1" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestPlugFails(t *testing.T) {
	bridge(t)
	ns := linktest.New(t)
	for name, change := range map[string]func(*link.Veth){
		"bad MAC":        func(v *link.Veth) { v.MAC = "x" },
		"bad name":       func(v *link.Veth) { v.HostName = "much-too-long-a-name" },
		"no bridge":      func(v *link.Veth) { v.Bridge = "none" },
		"no way":         func(v *link.Veth) { v.Gateway = netip.MustParseAddr("192.0.2.1") },
		"address, twice": func(v *link.Veth) { v.Addresses = append(v.Addresses, v.Addresses...) },
	} {
		v := veth(2)
		change(&v)
		if err := link.Plug(ns.FD(), v); err == nil {
			t.Errorf("%s: no error", name)
		} else if strings.Contains(err.Error(), "\n") && name != "bad name" {
			t.Errorf("%s: more than one line: %v", name, err)
		}
		if ports, err := link.Ports("lt0"); err != nil || len(ports) > 0 {
			t.Errorf("%s: left behind: %v, %v", name, ports, err)
		}
	}
	v := veth(2)
	if err := link.Plug(-1, v); err == nil {
		t.Error("plugged into no namespace")
	}
}

func TestIsolated(t *testing.T) {
	bridge(t)
	a, b := linktest.New(t), linktest.New(t)
	va, vb := veth(2), veth(3)
	va.Isolated, vb.Isolated = true, true
	plug(t, a, va)
	plug(t, b, vb)
	serve(t, a, ":80")
	if _, err := talk(b, "10.77.0.2:80", 500*time.Millisecond); err == nil {
		t.Error("isolated ports talk to each other")
	}
	if got, err := talk(nil, "10.77.0.2:80", 10*time.Second); err != nil || got != "10.77.0.1" {
		t.Errorf("from the host: %q, %v", got, err)
	}
}

// TestTap makes a tap twice, opens it as its owner would, and sees it as a
// port of the bridge.
func TestTap(t *testing.T) {
	bridge(t)
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("no /dev/net/tun")
	}
	tap := link.Tap{Name: "ltt0", Bridge: "lt0", Owner: 65534, Isolated: true}
	for range 2 {
		if err := link.MakeTap(tap); err != nil {
			t.Fatal(err)
		}
	}
	l, err := netlink.LinkByName("ltt0")
	if err != nil {
		t.Fatal(err)
	}
	tun, ok := l.(*netlink.Tuntap)
	if !ok || tun.Mode != netlink.TUNTAP_MODE_TAP || tun.Owner != 65534 || tun.NonPersist {
		t.Errorf("tap = %+v", l)
	}
	if l.Attrs().Flags&net.FlagUp == 0 {
		t.Error("it is not up")
	}
	for range 2 {
		if err := link.Delete("ltt0"); err != nil {
			t.Error(err)
		}
	}
	tap.Bridge = "none"
	if err := link.MakeTap(tap); err == nil {
		t.Error("no error without a bridge")
	}
}

func TestBridge(t *testing.T) {
	b := bridge(t)
	b.Address = netip.MustParsePrefix("10.78.0.1/16")
	b.MTU = 1400
	for range 2 {
		if err := link.EnsureBridge(b); err != nil {
			t.Fatal(err)
		}
	}
	l, err := netlink.LinkByName("lt0")
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil || len(addrs) != 1 || addrs[0].IPNet.String() != "10.78.0.1/16" || l.Attrs().MTU != 1400 {
		t.Errorf("addresses %v, MTU %d, %v", addrs, l.Attrs().MTU, err)
	}
	b.Name = "lo"
	if err := link.EnsureBridge(b); err == nil || !strings.Contains(err.Error(), "not a bridge") {
		t.Errorf("error = %v", err)
	}
	if err := link.SetSysctl("kernel.hostname", "x"); err == nil {
		t.Error("a sysctl that is not the network's was set")
	}
	if err := link.SetSysctl("net/../kernel/hostname", "x"); err == nil {
		t.Error("a sysctl that is not the network's was set")
	}
}

func BenchmarkPlug(b *testing.B) {
	linktest.Root(b)
	if err := link.EnsureBridge(link.Bridge{Name: "lt0", MAC: "02:be:00:00:00:01", Address: netip.PrefixFrom(gateway, 24)}); err != nil {
		b.Fatal(err)
	}
	defer link.Delete("lt0")
	other := linktest.New(b) // the bridge has another port, and so is up
	if err := link.Plug(other.FD(), veth(3)); err != nil {
		b.Fatal(err)
	}
	defer link.Delete("ltv3")
	for b.Loop() {
		b.StopTimer()
		ns := linktest.New(b)
		b.StartTimer()
		if err := link.Prepare(ns.FD(), link.ContainerSysctls(1<<31-1)); err != nil {
			b.Fatal(err)
		}
		if err := link.Plug(ns.FD(), veth(2)); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		ns.Close()
		link.Delete("ltv2")
		b.StartTimer()
	}
}
