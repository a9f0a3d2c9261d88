package builder

import (
	"os"
	"path/filepath"
	"testing"
)

// TestRegistries: builds pull from where the daemon's files say, as pulls do.
func TestRegistries(t *testing.T) {
	dir := t.TempDir()
	for registry, content := range map[string]string{
		"example.com": "server = \"https://example.com\"\n[host.\"http://mirror.example.com:5000\"]\n  capabilities = [\"pull\", \"resolve\"]\n",
		"broken.com":  "server = 1\n[",
	} {
		if err := os.Mkdir(filepath.Join(dir, registry), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, registry, "hosts.toml"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	hosts := registries(t.Context(), dir)
	list, err := hosts("example.com")
	if err != nil || len(list) != 2 || list[0].Host != "mirror.example.com:5000" || list[0].Scheme != "http" || list[1].Host != "example.com" || list[1].Scheme != "https" {
		t.Errorf("with a file: %+v, %v", list, err)
	}
	for registry, scheme := range map[string]string{"other.com": "https", "localhost:5000": "http"} {
		if list, err := hosts(registry); err != nil || len(list) != 1 || list[0].Host != registry || list[0].Scheme != scheme {
			t.Errorf("%s: %+v, %v", registry, list, err)
		}
	}
	if _, err := hosts("broken.com"); err == nil {
		t.Error("a file that cannot be read is none")
	}
}
