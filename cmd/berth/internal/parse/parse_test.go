package parse

import (
	"fmt"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcloud/berth/api"
)

// row is a value as the user writes it, and what it means; "" for an error.
type row struct{ in, want string }

// check reads each value and compares what it means, as text.
func check[T any](t *testing.T, read func(string) (T, error), rows []row) {
	t.Helper()
	for _, r := range rows {
		got, err := read(r.in)
		text := fmt.Sprintf("%+v", got)
		switch {
		case r.want == "" && err == nil:
			t.Errorf("%q is read as %s; want an error", r.in, text)
		case r.want == "":
			oneLine(t, r.in, err)
		case err != nil:
			t.Errorf("%q: %v; want %s", r.in, err, r.want)
		case text != r.want:
			t.Errorf("%q is read as %s; want %s", r.in, text, r.want)
		}
	}
}

// oneLine checks that an error is one line that shows the value.
func oneLine(t *testing.T, in string, err error) {
	t.Helper()
	if strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), fmt.Sprintf("%q", in)) {
		t.Errorf("%q: the error is %q", in, err)
	}
}

func TestScalars(t *testing.T) {
	check(t, Size, []row{
		{"0", "0"}, {"1024", "1024"}, {"512m", "536870912"}, {"1g", "1073741824"}, {"1.5GiB", "1610612736"}, {"1kb", "1024"},
		{"-1", ""}, {"", ""}, {"lots", ""}, {"1x", ""}, {"nan", ""},
	})
	check(t, SizeOrUnlimited, []row{{"-1", "-1"}, {"1k", "1024"}, {"-2", ""}})
	check(t, CPUs, []row{{"0.5", "0.5"}, {"2", "2"}, {"0", ""}, {"-1", ""}, {"NaN", ""}, {"Inf", ""}, {"two", ""}})
	check(t, Seconds, []row{
		{"0", "0s"}, {"10", "10s"}, {"-1", "876000h0m0s"}, {"1m30s", "1m30s"}, {"soon", ""}, {"-5s", ""}, {"99999999999999", ""},
	})
	check(t, Duration, []row{{"30s", "30s"}, {"1m", "1m0s"}, {"30", ""}, {"-1s", ""}, {"", ""}})
	check(t, Restart, []row{
		{"no", "{Mode:no MaxRetries:0}"}, {"always", "{Mode:always MaxRetries:0}"}, {"unless-stopped", "{Mode:unless-stopped MaxRetries:0}"},
		{"on-failure", "{Mode:on-failure MaxRetries:0}"}, {"on-failure:3", "{Mode:on-failure MaxRetries:3}"},
		{"on-failure:", ""}, {"on-failure:-1", ""}, {"always:3", ""}, {"sometimes", ""}, {"", ""},
	})
	check(t, Init, []row{
		{"none", "none"}, {"reap", "reap"}, {"system", "system"}, {"true", "reap"}, {"false", "none"}, {"1", ""}, {"", ""},
	})
	check(t, Ulimit, []row{
		{"nofile=1024", "{Name:nofile Soft:1024 Hard:1024}"}, {"NPROC=1:2", "{Name:nproc Soft:1 Hard:2}"}, {"core=0:-1", "{Name:core Soft:0 Hard:-1}"},
		{"memlock=-1", "{Name:memlock Soft:-1 Hard:-1}"}, {"nofile", ""}, {"=1", ""}, {"nofile=x", ""}, {"nofile=2:1", ""}, {"nofile=-1:5", ""}, {"nofile=-2", ""},
	})
	check(t, Rate(Count), []row{
		{"500", "{Limit:500 Burst:0}"}, {"500:1000", "{Limit:500 Burst:1000}"}, {"-1", "{Limit:-1 Burst:0}"},
		{"0", ""}, {"", ""}, {"500:", ""}, {"500:400", ""}, {"x", ""}, {"1:2:3", ""}, {"-2", ""}, {"5k", ""},
	})
	check(t, Rate(Size), []row{{"50m", "{Limit:52428800 Burst:0}"}, {"1m:2m", "{Limit:1048576 Burst:2097152}"}, {"50x", ""}})
	check(t, Keys, []row{
		{"ctrl-p,ctrl-q", "[16 17]"}, {"a,CTRL-@", "[97 0]"}, {"ctrl-[", "[27]"}, {"", "[]"}, {"ctrl-", ""}, {"ctrl-1", ""}, {"ab", ""}, {"a,,b", ""},
	})
}

func TestWeight(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 0, 1: 1, 2: 1, 1024: 100, 262144: 10000} {
		if got, err := Weight(shares); err != nil || got != want {
			t.Errorf("%d shares weigh %d, %v; want %d", shares, got, err, want)
		}
	}
	if _, err := Weight(262145); err == nil {
		t.Error("262145 shares are accepted")
	}
	last := uint64(0)
	for s := uint64(2); s <= 262144; s += 97 {
		w, _ := Weight(s)
		if w < last || w < 1 || w > 10000 {
			t.Fatalf("%d shares weigh %d after %d", s, w, last)
		}
		last = w
	}
}

func TestTime(t *testing.T) {
	zone := time.FixedZone("X", 3600)
	now := time.Date(2026, 11, 23, 15, 4, 5, 0, zone)
	read := func(s string) (string, error) {
		got, err := Time(s, now)
		return got.UTC().Format(time.RFC3339Nano), err
	}
	check(t, read, []row{
		{"", "0001-01-01T00:00:00Z"}, {"10m", "2026-11-23T13:54:05Z"}, {"0s", "2026-11-23T14:04:05Z"},
		{"2026-11-23T15:04:05.5Z", "2026-11-23T15:04:05.5Z"}, {"2026-11-23T15:04:05", "2026-11-23T14:04:05Z"},
		{"2026-11-23T15:04", "2026-11-23T14:04:00Z"}, {"2026-11-23", "2026-11-22T23:00:00Z"}, {"2026-11-23Z", "2026-11-23T00:00:00Z"},
		{"1700000000", "2023-11-14T22:13:20Z"}, {"1700000000.25", "2023-11-14T22:13:20.25Z"}, {"0", "1970-01-01T00:00:00Z"},
		{"yesterday", ""}, {"1.2.3", ""}, {"-5", ""}, {"2026-13-01", ""},
	})
}

func TestPublish(t *testing.T) {
	check(t, Publish, []row{
		{"80", "[{HostIP: HostPort:0 Port:80 Protocol:tcp}]"},
		{"8080:80", "[{HostIP: HostPort:8080 Port:80 Protocol:tcp}]"},
		{"53:53/udp", "[{HostIP: HostPort:53 Port:53 Protocol:udp}]"},
		{"127.0.0.1::80/TCP", "[{HostIP:127.0.0.1 HostPort:0 Port:80 Protocol:tcp}]"},
		{"[::1]:8080:80", "[{HostIP:::1 HostPort:8080 Port:80 Protocol:tcp}]"},
		{"8000-8001:80-81", "[{HostIP: HostPort:8000 Port:80 Protocol:tcp} {HostIP: HostPort:8001 Port:81 Protocol:tcp}]"},
		{"", ""}, {"0", ""}, {"65536", ""}, {"80/sctp", ""}, {"x:80", ""}, {"80:x", ""}, {"2-1:80", ""}, {"8000-8002:80-81", ""},
		{"1-60000:1-60000", ""}, {"999.1.1.1:80:80", ""}, {"a:b:c:d", ""}, {"-1", ""},
	})
}

func TestMounts(t *testing.T) {
	volume := func(s string) (api.Mount, error) { return Volume(s, "/cwd") }
	mount := func(s string) (api.Mount, error) { return Mount(s, "/cwd") }
	show := func(read func(string) (api.Mount, error)) func(string) (string, error) {
		return func(s string) (string, error) {
			m, err := read(s)
			return fmt.Sprintf("%s %s %s ro=%t nocopy=%t %d %o", m.Type, m.Source, m.Target, m.ReadOnly, m.NoCopy, m.Size, m.Mode), err
		}
	}
	check(t, show(volume), []row{
		{"/a:/b", "bind /a /b ro=false nocopy=false 0 0"}, {"./a/../x:/b/:ro", "bind /cwd/x /b ro=true nocopy=false 0 0"},
		{"data:/b:ro,nocopy,Z", "volume data /b ro=true nocopy=true 0 0"}, {"/b", "volume  /b ro=false nocopy=false 0 0"},
		{"", ""}, {":/b", ""}, {"a:b", ""}, {"a:/", ""}, {"a:/../", ""}, {"a/b:/c", ""}, {"a:/b:sideways", ""}, {"a:/b:ro:x", ""},
	})
	check(t, show(mount), []row{
		{"type=bind,src=/a,dst=/b,readonly", "bind /a /b ro=true nocopy=false 0 0"}, {"type=bind,source=a,target=/b,ro=false", "bind /cwd/a /b ro=false nocopy=false 0 0"},
		{"source=data,destination=/b", "volume data /b ro=false nocopy=false 0 0"}, {"type=tmpfs,target=/t,tmpfs-size=1k,tmpfs-mode=700", "tmpfs  /t ro=false nocopy=false 1024 700"},
		{"type=bind,target=/b", ""}, {"type=nfs,source=a,target=/b", ""}, {"source=a", ""}, {"target=b", ""}, {"type=tmpfs,source=a,target=/b", ""},
		{"source=a,target=/b,readonly=perhaps", ""}, {"source=a,target=/b,magic=1", ""}, {"source=a,target=/b,tmpfs-size=1k", ""}, {"source=a/b,target=/c", ""},
	})
	check(t, show(Tmpfs), []row{
		{"/t", "tmpfs  /t ro=false nocopy=false 0 0"}, {"/t:size=1m,mode=1777,nosuid,ro", "tmpfs  /t ro=true nocopy=false 1048576 1777"},
		{"t", ""}, {"/t:size=big", ""}, {"/t:mode=9", ""}, {"/t:uid=1", ""},
	})
}

func TestEnv(t *testing.T) {
	lookup := func(name string) (string, bool) { return "value", name == "SET" }
	read := func(s string) (string, error) { return Env(s, lookup) }
	check(t, read, []row{{"A=1", "A=1"}, {"A=", "A="}, {"A=b=c", "A=b=c"}, {"SET", "SET=value"}, {"=1", ""}, {"", ""}, {"A=\x00", ""}})
	if got, err := read("UNSET"); got != "" || err != nil {
		t.Errorf("UNSET: %q, %v", got, err)
	}
}

func TestLines(t *testing.T) {
	got, err := Lines(strings.NewReader("\ufeffA=1\n\n# comment\n  B = x y\r\nC"), "file")
	if err == nil {
		t.Fatalf("a name with a blank is accepted: %q", got)
	}
	got, err = Lines(strings.NewReader("\ufeffA=1\n\n# comment\n  B=x y \nC"), "file")
	if d := cmp.Diff([]string{"A=1", "B=x y ", "C"}, got); err != nil || d != "" {
		t.Errorf("%v\n%s", err, d)
	}
	for _, text := range []string{"=1", "A=\x00", strings.Repeat("x", maxLine+1)} {
		if _, err := Lines(strings.NewReader(text), "file"); err == nil || !strings.HasPrefix(err.Error(), "file") {
			t.Errorf("%.10q: %v", text, err)
		}
	}
}

func TestLabelsAndFilters(t *testing.T) {
	got, err := Labels([]string{"a=1", "b", "c=x=y"})
	if d := cmp.Diff(map[string]string{"a": "1", "b": "", "c": "x=y"}, got); err != nil || d != "" {
		t.Errorf("%v\n%s", err, d)
	}
	if _, err := Labels([]string{"=1"}); err == nil {
		t.Error("a label without a name is accepted")
	}
	filters, err := Filters([]string{"name=a", "name=b", "label=c=d"})
	if d := cmp.Diff(map[string][]string{"name": {"a", "b"}, "label": {"c=d"}}, filters); err != nil || d != "" {
		t.Errorf("%v\n%s", err, d)
	}
	if _, err := Filters([]string{"web"}); err == nil {
		t.Error("a filter without a key is accepted")
	}
}

func TestPlatform(t *testing.T) {
	for given, want := range map[string]string{
		"linux/amd64": "linux/amd64", "amd64": "linux/amd64", "linux/amd64/v2": "linux/amd64/v2", "x86_64": "linux/amd64",
		"linux/arm64": "linux/arm64", "arm64": "linux/arm64", "arm64/v8": "linux/arm64/v8", "aarch64": "linux/arm64",
	} {
		if got, err := Platform(given); err != nil || got != want {
			t.Errorf("%s: %q, %v", given, got, err)
		}
	}
	for _, bad := range []string{"", "windows/amd64", "linux/amd64x", "linux", "linux/riscv64", "linux/arm64/8", "linux/arm64/v8/x", "linux/arm64/"} {
		if got, err := Platform(bad); err == nil {
			t.Errorf("%s is accepted as %s", bad, got)
		}
	}
}

// FuzzAll gives every reader any text: it must not panic, must be bounded, and
// must say what is wrong in a line that can be printed.
func FuzzAll(f *testing.F) {
	for _, seed := range []string{"", "512m", "1.5", "8080:80/udp", "[::1]:1-2:3-4", "/a:/b:ro", "type=bind,src=/a,dst=/b", "on-failure:3", "nofile=1:2", "ctrl-p,q", "2026-11-23T15:04:05Z", "A=b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_, e1 := Size(s)
		_, e2 := CPUs(s)
		_, e3 := Seconds(s)
		_, e4 := Time(s, time.Unix(0, 0))
		_, e5 := Restart(s)
		_, e6 := Ulimit(s)
		_, e7 := Keys(s)
		ports, e8 := Publish(s)
		v, e9 := Volume(s, "/cwd")
		m, e10 := Mount(s, "/cwd")
		tmp, e11 := Tmpfs(s)
		_, e12 := Env(s, func(string) (string, bool) { return "", false })
		for _, err := range []error{e1, e2, e3, e4, e5, e6, e7, e8, e9, e10, e11, e12} {
			if err != nil && strings.ContainsAny(err.Error(), "\n\x1b\x00") {
				t.Errorf("%q: an error breaks out of its line: %q", s, err)
			}
		}
		if len(ports) > maxPorts {
			t.Errorf("%q: %d ports", s, len(ports))
		}
		for i, got := range []struct {
			api.Mount
			error
		}{{v, e9}, {m, e10}, {tmp, e11}} {
			if got.error == nil && (got.Target == "/" || got.Target != path.Clean("/"+got.Target)) {
				t.Errorf("%q: mount %d has the target %q", s, i, got.Target)
			}
		}
		_, _ = Lines(strings.NewReader(s), "f")
	})
}
