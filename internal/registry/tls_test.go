package registry_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/registry"
	"github.com/berthcloud/berth/internal/testenv"
)

// certify writes a certificate for this host and its key, and returns it.
func certify(t *testing.T, cert, key string) *x509.Certificate {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// TestTLS serves with a certificate, and with the next one when it is renewed; nothing in
// the clear, nor by an old version of TLS.
func TestTLS(t *testing.T) {
	dir := testenv.Dir(t)
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	first := certify(t, cert, key)
	s := serve(t, registry.Config{Listen: "0.0.0.0:0", Cert: cert, Key: key, Users: users(t, "ann")})
	_, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		t.Fatal(err)
	}
	addr := "127.0.0.1:" + port
	get := func(trusted *x509.Certificate, config *tls.Config) (*http.Response, error) {
		config.RootCAs = x509.NewCertPool()
		config.RootCAs.AddCert(trusted)
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
		defer client.CloseIdleConnections()
		resp, err := client.Get("https://" + addr + "/v2/")
		if err == nil {
			resp.Body.Close()
		}
		return resp, err
	}
	resp, err := get(first, &tls.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if want := `Bearer realm="https://` + addr + `/token"`; !strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), want) {
		t.Errorf("challenge %s, want %s…", resp.Header.Get("WWW-Authenticate"), want)
	}
	if _, err := get(first, &tls.Config{MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
	if resp, err := http.Get("http://" + addr + "/v2/"); err == nil {
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("in the clear: %s", resp.Status)
		}
	}

	// Berth itself trusts it by its hosts.toml alone.
	hosts := testenv.Dir(t)
	if err := os.Mkdir(filepath.Join(hosts, addr), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(hosts, addr, "hosts.toml"), []byte("ca = \""+cert+"\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{"trusted": hosts, "not trusted": ""} {
		store, err := image.Open(testenv.Dir(t), image.Options{Hosts: dir, DockerConfig: testenv.Dir(t)})
		if err != nil {
			t.Fatal(err)
		}
		_, err = store.Pull(t.Context(), addr+"/none:1", image.PullOptions{Access: image.Access{Username: "ann", Secret: "secret of ann"}})
		if trusted := err != nil && strings.Contains(err.Error(), "no such image"); trusted != (name == "trusted") {
			t.Errorf("%s: %v", name, err)
		}
		store.Close()
	}

	second := certify(t, cert, key)
	if _, err := get(second, &tls.Config{}); err != nil {
		t.Errorf("the renewed certificate: %v", err)
	}
	if err := os.WriteFile(key, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := get(second, &tls.Config{}); err != nil {
		t.Errorf("while the files are damaged: %v", err)
	}
}
