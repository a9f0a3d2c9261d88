package client

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/berthcloud/berth/api"
)

func TestUnreachable(t *testing.T) {
	for errno, want := range map[syscall.Errno]struct {
		kind api.ErrorKind
		says string
	}{
		syscall.ENOENT:       {api.Unavailable, "no such socket; start it with 'berthd' or name another with BERTH_HOST"},
		syscall.ECONNREFUSED: {api.Unavailable, "nobody listens on the socket; start it with 'berthd'"},
		syscall.EACCES:       {api.Denied, "permission denied on the socket; become root or join the group 'berth'"},
		syscall.EMFILE:       {api.Unavailable, "too many open files"},
	} {
		err := unreachable("unix:///x", fmt.Errorf("dial: %w", os.NewSyscallError("connect", errno)))
		if !api.IsKind(err, want.kind) || !strings.HasPrefix(err.Error(), "cannot reach berthd at unix:///x: ") || !strings.Contains(err.Error(), want.says) {
			t.Errorf("%v: %s: %v", errno, api.KindOf(err), err)
		}
	}
}

func TestPaths(t *testing.T) {
	for _, c := range []struct {
		elements []string
		want     string
	}{
		{[]string{"instances", "web"}, "/v1/instances/web"},
		{[]string{"images", "host:5000/a/b@sha256:0", "tag"}, "/v1/images/host:5000%2Fa%2Fb@sha256:0/tag"},
		{[]string{"volumes", "a b?#%\n"}, "/v1/volumes/a%20b%3F%23%25%0A"},
		{[]string{"instances", "..", "start"}, ""},
		{[]string{"instances", "."}, ""},
		{[]string{"instances", ""}, ""},
	} {
		got, err := at(c.elements...)
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%q: %q, %v; want %q", c.elements, got, err, c.want)
		}
	}
}

// TestTarTellsItsWriter: a copy that ends because the user's disk is full must
// not be blamed on the daemon.
func TestTarTellsItsWriter(t *testing.T) {
	full := errors.New("disk full")
	r := &sourceReader{r: strings.NewReader("x")}
	if _, err := r.Read(make([]byte, 1)); err != nil || r.err != nil {
		t.Errorf("%v, %v", err, r.err)
	}
	r = &sourceReader{r: failing{full}}
	if _, err := r.Read(nil); !errors.Is(err, full) || !errors.Is(r.err, full) {
		t.Errorf("%v, %v", err, r.err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
