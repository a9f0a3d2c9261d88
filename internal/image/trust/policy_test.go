package trust

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berthcloud/berth/api"
)

func TestScopes(t *testing.T) {
	p, err := parse([]byte(`{"default": [{"type": "reject"}], "transports": {"docker": {
		"a.example.com/x/y": [{"type": "insecureAcceptAnything"}, {"type": "reject"}],
		"a.example.com/x": [{"type": "insecureAcceptAnything"}],
		"a.example.com": [{"type": "reject"}, {"type": "reject"}],
		"*.example.org": [{"type": "insecureAcceptAnything"}, {"type": "insecureAcceptAnything"}, {"type": "reject"}]}}}`))
	if err != nil {
		t.Fatal(err)
	}
	for repository, many := range map[string]int{
		"a.example.com/x/y": 2, "a.example.com/x/y/z": 2, "a.example.com/x/yy": 1, "a.example.com/x": 1, "a.example.com/xx": 2,
		"b.example.com/x": 1, "b.example.org/x": 3, "c.b.example.org/x": 3, "example.org/x": 1, "docker.io/library/a": 1,
	} {
		if got := p.requirements(repository); len(got) != many {
			t.Errorf("%s has %d requirements, want %d", repository, len(got), many)
		}
	}
}

func TestBadPolicies(t *testing.T) {
	for text, says := range map[string]string{
		`{`:                                   "unexpected EOF",
		`{}`:                                  `"default" is missing`,
		`{"default": []}`:                     `"default" is missing`,
		`{"default": [{"type": "reject"}]} x`: "something follows",
		`{"default": [{"type": "maybe"}]}`:    `requirement "maybe" is unknown`,
		`{"default": [{"type": "reject", "shade": 1}]}`:                                                                "shade",
		`{"default": [{"type": "sigstoreSigned"}]}`:                                                                    "names nobody",
		`{"default": [{"type": "sigstoreSigned", "keyPath": "k", "pki": {"caRootsPath": "r", "subjectEmail": "e"}}]}`:  "several ways",
		`{"default": [{"type": "sigstoreSigned", "pki": {"caRootsPath": "r"}}]}`:                                       "pki needs",
		`{"default": [{"type": "sigstoreSigned", "fulcio": {"caPath": "r", "oidcIssuer": "i", "subjectEmail": "e"}}]}`: "rekorPublicKeyPath",
		`{"default": [{"type": "sigstoreSigned", "keyPath": "k", "rekorPublicKeyPath": "r"}]}`:                         "belongs to fulcio",
		`{"default": [{"type": "sigstoreSigned", "keyPath": "k", "signedIdentity": {"type": "exactRepository"}}]}`:     "dockerRepository",
		`{"default": [{"type": "sigstoreSigned", "keyPath": "k", "signedIdentity": {"type": "near"}}]}`:                `"near" is unknown`,
		`{"default": [{"type": "reject"}], "transports": {"docker": {"a.example.com": []}}}`:                           "a.example.com: an empty list",
		`{"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "k"}]}`:                                    "keyType",
	} {
		path := filepath.Join(t.TempDir(), "policy.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Load(path)
		if !api.IsKind(err, api.Invalid) || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v; want %q", text, err, says)
		}
	}
	p, err := Load(filepath.Join(t.TempDir(), "none.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Check(t.Context(), "docker.io/library/a:1", digest.FromString("a"), nil, nil); err != nil {
		t.Errorf("no policy at all: %v", err)
	}
	rejects := &Policy{others: []requirement{{Type: reject}}}
	if err := rejects.Check(t.Context(), "docker.io/library/a:1", digest.FromString("a"), nil, nil); !api.IsKind(err, api.Denied) {
		t.Errorf("a rejected repository: %v", err)
	}
}

// FuzzPolicy: whatever stands in a policy is read or refused without a panic.
func FuzzPolicy(f *testing.F) {
	f.Add([]byte(`{"default": [{"type": "sigstoreSigned", "keyPath": "k", "signedIdentity": {"type": "matchExact"}}], "transports": {"docker": {"": [{"type": "reject"}]}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := parse(text)
		if err == nil && len(p.requirements("registry.example.com/a")) == 0 {
			t.Error("a policy without requirements")
		}
	})
}
