package rootless

import (
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestSubordinate(t *testing.T) {
	const file = "root:1:10\nann:100000:65536\nbob:200000:65536\n# ann:7:7\n1000:300000:5\nann:400000:0\n\nodd line\n"
	for _, c := range []struct {
		name, id string
		want     []Range
	}{
		{"ann", "7", []Range{{100000, 65536}}},
		{"bob", "1000", []Range{{200000, 65536}, {300000, 5}}},
		{"eve", "8", nil},
	} {
		got, err := subordinate(strings.NewReader(file), c.name, c.id)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, %v; want %v", c.name, got, err, c.want)
		}
	}
	for _, bad := range []string{"ann:x:1", "ann:1:x", "ann:0:5", "ann:4294967295:5", "ann:-1:5"} {
		if got, err := subordinate(strings.NewReader(bad), "ann", "7"); err == nil || !strings.Contains(err.Error(), "line 1: ") {
			t.Errorf("%s: %v, %v", bad, got, err)
		}
	}
}

func TestInside(t *testing.T) {
	got := inside(1000, []Range{{100000, 65536}, {300000, 5}})
	want := []specs.LinuxIDMapping{
		{ContainerID: 0, HostID: 1000, Size: 1}, {ContainerID: 1, HostID: 100000, Size: 65536}, {ContainerID: 65537, HostID: 300000, Size: 5},
	}
	if !reflect.DeepEqual(got, want) || count(got) != 65542 {
		t.Errorf("%v, %d ids", got, count(got))
	}
}

func TestContiguous(t *testing.T) {
	for text, want := range map[string][]Range{
		"         0       1000          1\n         1     100000      65536\n": {{0, 1}, {1, 65536}},
		"0 0 4294967295\n":           {{0, 4294967295}},
		"0 1000 1\n5 100000 65536\n": {{0, 1}},
		"":                           nil,
	} {
		if got, err := contiguous(strings.NewReader(text)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
}

// FuzzSubordinate reads /etc/subuid and id maps, which others have written.
func FuzzSubordinate(f *testing.F) {
	f.Add("ann:100000:65536\n")
	f.Add("1000:4294967295:4294967295\nann:1:1")
	f.Add("0 1000 1\n1 100000 65536\n")
	f.Fuzz(func(t *testing.T, text string) {
		_, _ = contiguous(strings.NewReader(text))
		ranges, err := subordinate(strings.NewReader(text), "ann", "1000")
		if err != nil {
			return
		}
		next := uint64(0)
		for _, m := range inside(1000, ranges) {
			if uint64(m.ContainerID) != next || m.Size == 0 || uint64(m.HostID)+uint64(m.Size) > 1<<32 {
				t.Errorf("%q: a map with %+v", text, m)
			}
			next += uint64(m.Size)
		}
		if next > 1<<31 {
			t.Errorf("%q: %d ids", text, next)
		}
	})
}
