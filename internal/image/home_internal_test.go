package image

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/berthcloud/berth/api"
)

// TestNearness tells addresses of the host and of the site from others.
func TestNearness(t *testing.T) {
	for text, want := range map[string]int32{
		"127.0.0.1": onHost, "127.8.8.8": onHost, "::1": onHost, "0.0.0.0": onHost, "::": onHost, "169.254.169.254": onHost, "fe80::1": onHost, "224.0.0.1": onHost,
		"::ffff:127.0.0.1": onHost, "::ffff:169.254.169.254": onHost, "10.0.0.1": onSite, "172.16.0.1": onSite, "192.168.1.1": onSite, "fd00::1": onSite,
		"100.64.0.1": onSite, "::ffff:10.0.0.1": onSite, "8.8.8.8": far, "2001:4860:4860::8888": far, "172.32.0.1": far,
	} {
		if got := nearness(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s is %d, want %d", text, got, want)
		}
	}
}

// TestLedAstray has a registry elsewhere redirect to a service of this host, and name it as
// its realm.
func TestLedAstray(t *testing.T) {
	asked := false
	secret := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer secret.Close()
	lead := func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, secret.URL, http.StatusTemporaryRedirect)
	}
	registry := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { lead(w, r) }))
	l := siteListener(t)
	registry.Listener.Close()
	registry.Listener = l
	registry.Start()
	defer registry.Close()
	host := l.Addr().String()
	s, err := Open(t.TempDir(), Options{Insecure: []string{host}, DockerConfig: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()

	refused := func(what string, err error) {
		t.Helper()
		if !api.IsKind(err, api.Denied) || !strings.Contains(err.Error(), "an address of this host") || asked {
			t.Errorf("%s: %v; asked %v", what, err, asked)
		}
	}
	_, err = s.Pull(t.Context(), host+"/app:1", PullOptions{})
	refused("a redirect", err)
	lead = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+secret.URL+`/token",service="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}
	_, err = s.Pull(t.Context(), host+"/app:1", PullOptions{})
	refused("a realm", err)
}

// siteListener listens at an address that is the site's, and not this host's alone.
func siteListener(t *testing.T) net.Listener {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil || nearness(prefix.Addr()) == onHost || !prefix.Addr().Is4() {
			continue
		}
		l, err := net.Listen("tcp", netip.AddrPortFrom(prefix.Addr(), 0).String())
		if err == nil {
			return l
		}
	}
	t.Skip("this host has no address but its own")
	return nil
}
