package landlock

import (
	"reflect"
	"strings"
	"testing"
)

func TestDomain(t *testing.T) {
	t.Parallel()
	p, err := Parse(`{"handledAccessFS": ["write_file", "make_reg", "truncate"], "handledAccessNet": ["bind_tcp"], "scoped": ["signal"],
		"pathBeneath": [{"allowedAccess": ["write_file", "truncate"], "paths": ["/data/", "/log"]}, {"allowedAccess": ["make_reg"], "paths": ["/tmp"]}],
		"netPort": [{"allowedAccess": ["bind_tcp"], "ports": [80]}]}`)
	if err != nil {
		t.Fatal(err)
	}
	want := &Domain{
		Size: 24, FS: 0x4102, Net: 1, Scoped: 2,
		Paths: []Path{{"/data", 0x4002, 0x4002}, {"/log", 0x4002, 0x4002}, {"/tmp", 0x100, 0}}, Ports: []Port{{80, 1}},
	}
	if got, err := p.Domain(6); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("version 6: %+v, %v", got, err)
	}
	for version, reason := range map[int]string{
		0: "the kernel has no Landlock", 2: `"truncate" takes version 3 of Landlock, and the kernel has 2`,
		3: `"bind_tcp" takes version 4`, 5: `"signal" takes version 6`,
	} {
		if _, err := p.Domain(version); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("version %d: %v", version, err)
		}
	}
	p.BestEffort = true
	want = &Domain{Size: 8, FS: 0x102, Paths: []Path{{"/data", 2, 2}, {"/log", 2, 2}, {"/tmp", 0x100, 0}}}
	if got, err := p.Domain(1); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("the best that version 1 can do: %+v, %v", got, err)
	}
	if got, err := p.Domain(0); err != nil || got != nil {
		t.Errorf("the best without Landlock: %+v, %v", got, err)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for text, reason := range map[string]string{
		"":                                     "not a profile: EOF",
		"{}":                                   "nothing would be forbidden",
		`{"handled": ["execute"]}`:             `unknown field "handled"`,
		`{"scoped": ["signal"]} {}`:            "something follows it",
		`{"handledAccessFS": ["exec"]}`:        `handledAccessFS: "exec" is unknown; there are execute, `,
		`{"handledAccessNet": ["bind_udp"]}`:   `"bind_udp" is unknown; there are bind_tcp, connect_tcp`,
		`{"scoped": ["signals"]}`:              "there are abstract_unix_socket, signal",
		strings.Repeat(" ", maxProfile) + "{}": "more than the",
		`{"handledAccessFS": ["execute"], "pathBeneath": [{"allowedAccess": ["execute"], "paths": ["usr"]}]}`:                  `pathBeneath[0].paths: "usr" is no absolute path`,
		`{"handledAccessFS": ["execute"], "pathBeneath": [{"allowedAccess": [], "paths": ["/usr"]}]}`:                          "pathBeneath[0].allowedAccess: is empty",
		`{"handledAccessFS": ["execute"], "pathBeneath": [{"allowedAccess": ["read_file"], "paths": ["/usr"]}]}`:               `"read_file" is not in handledAccessFS`,
		`{"handledAccessFS": ["execute"], "netPort": [{"allowedAccess": ["bind_tcp"], "ports": [1]}]}`:                         `"bind_tcp" is not in handledAccessNet`,
		`{"handledAccessNet": ["bind_tcp"], "netPort": [{"allowedAccess": ["bind_tcp"], "ports": [70000]}]}`:                   "not a profile",
		`{"handledAccessFS": ["execute"], "pathBeneath": [{"allowedAccess": ["execute"], "paths": [` + many(maxRules) + `]}]}`: "paths and ports are more than",
	} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), reason) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.80s: %v; want %q", text, err, reason)
		}
	}
}

// many lists one path more than n.
func many(n int) string { return strings.Repeat(`"/a",`, n) + `"/a"` }

func FuzzParse(f *testing.F) {
	f.Add(`{"handledAccessFS": ["execute"], "pathBeneath": [{"allowedAccess": ["execute"], "paths": ["/usr"]}]}`)
	f.Add(`{"handledAccessNet": ["bind_tcp"], "netPort": [{"allowedAccess": ["bind_tcp"], "ports": [1]}], "bestEffort": true}`)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse(text)
		if err != nil {
			return
		}
		for version := range 8 {
			d, err := p.Domain(version)
			if err != nil || d == nil {
				continue
			}
			for _, r := range d.Paths {
				if r.Dir == 0 || r.Dir&^d.FS != 0 || r.File&^r.Dir != 0 {
					t.Errorf("version %d: %+v of %+v", version, r, d)
				}
			}
		}
	})
}
