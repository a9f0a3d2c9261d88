package stage

import (
	"strings"
	"testing"
)

// FuzzResolve: whatever an image has in /etc/passwd and /etc/group, nobody gets an
// id that wraps, or one that stands nowhere (CVE-2024-40635).
func FuzzResolve(f *testing.F) {
	const passwd, group = "root:x:0:0::/root:/bin/sh\nbob:x:1000:1001::/home/bob:/bin/sh\n", "wheel:x:10:bob\nbob:x:1001:\n"
	for _, user := range []string{"bob", "bob:wheel", "1000", "7:8", ":9", "", "4294967296", "-1", "bob:nobody", "bob:4294967296"} {
		f.Add([]byte(passwd), []byte(group), user)
	}
	f.Add([]byte("bob:x:4294967296:0\nbob:x:+1:-1\n:::\n0:x:1:1\n\x00:\n"), []byte("a:x:1"), "bob")
	f.Add([]byte("bob:x:1:1::/a\x00b:"), []byte("::18446744073709551616:bob,,bob"), "bob")
	f.Fuzz(func(t *testing.T, passwd, group []byte, user string) {
		p := Process{Username: user}
		if err := p.resolve(passwd, group); err != nil {
			return
		}
		for _, id := range append([]uint32{p.UID, p.GID}, p.Groups...) {
			if id >= 1<<31 {
				t.Errorf("user %q has the id %d", user, id)
			}
		}
		name, _, _ := strings.Cut(user, ":")
		root := name == "" || numeric(name) && strings.Trim(name, "0") == ""
		accounts(passwd, func(a account) bool {
			root = root || a.name == name && a.id == 0
			return root
		})
		if p.UID == 0 && !root {
			t.Errorf("user %q became root", user)
		}
		if home := homeOf(passwd, p.UID); !strings.HasPrefix(home, "/") || strings.ContainsRune(home, 0) {
			t.Errorf("user %q lives in %q", user, home)
		}
	})
}
