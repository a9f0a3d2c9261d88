package criu

import (
	"reflect"
	"testing"
)

// TestRequest holds the encoding to bytes that protoc's own encoder gives for the
// same message.
func TestRequest(t *testing.T) {
	o := Options{Pid: 300, Root: "/r", External: []string{"mnt[/a]:/b"}, Inherit: map[string]int{"pipe:[7]": 1}, ManageCgroups: "ignore"}
	got := o.request(Restore, 4, 5)
	want := "\x08\x02\x12\x44" +
		"\x08\x04" + "\x30\x01" + "\x48\x03" + "\x52\x0brestore.log" + "\x60\x01" + "\x6a\x02/r" + "\x88\x01\x05" + "\xc0\x01\x01" +
		"\xd0\x01\x01" + "\xda\x01\x0c\x0a\x08pipe:[7]\x10\x01" + "\x90\x02\x00" + "\xaa\x02\x0amnt[/a]:/b" + "\x90\x03\x01"
	if string(got) != want {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
}

func TestResponse(t *testing.T) {
	for in, want := range map[string]response{
		"\x08\x02\x10\x01\x22\x03\x08\xac\x02":       {kind: Restore, success: true, pid: 300},
		"\x08\x06\x10\x01\x2a\x06\x0a\x02hi\x10\x05": {kind: notify, success: true, script: "hi", pid: 5},
		"\x08\x01\x10\x00\x38\x16\x4a\x03why":        {kind: Dump, errno: 22, message: "why"},
	} {
		if got, err := parseResponse([]byte(in)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v; want %+v", in, got, err, want)
		}
	}
	for _, in := range []string{"\x08", "\x4a\x09x", "\x0b", "\x09\x00", "\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"} {
		if _, err := parseResponse([]byte(in)); err == nil {
			t.Errorf("%q is accepted", in)
		}
	}
}

func FuzzResponse(f *testing.F) {
	f.Add([]byte("\x08\x06\x10\x01\x2a\x06\x0a\x02hi\x10\x05"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := parseResponse(b); err == nil && len(r.script)+len(r.message) > len(b) {
			t.Errorf("%q: %+v", b, r)
		}
	})
}
