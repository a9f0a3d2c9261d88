package keeper

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/berthcloud/berth/api"
)

func TestFrame(t *testing.T) {
	var stream []byte
	stream = AppendFrame(stream, FrameStdout, []byte("hello"))
	stream = AppendFrame(stream, FrameControl, nil)
	stream = AppendFrame(stream, FrameStderr, bytes.Repeat([]byte{'x'}, 100))
	r := bytes.NewReader(stream)
	buf := make([]byte, 8)
	for _, want := range []struct {
		t FrameType
		p string
	}{{FrameStdout, "hello"}, {FrameControl, ""}, {FrameStderr, strings.Repeat("x", 100)}} {
		ft, p, err := ReadFrame(r, buf)
		if err != nil || ft != want.t || string(p) != want.p {
			t.Errorf("got %q %q %v", ft, p, err)
		}
	}
	if _, _, err := ReadFrame(r, buf); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

// TestFrameTruncated cuts a frame at every byte.
func TestFrameTruncated(t *testing.T) {
	whole := AppendFrame(nil, FrameRequest, []byte(`{"op":"ping"}`))
	for n := 1; n < len(whole); n++ {
		if _, _, err := ReadFrame(bytes.NewReader(whole[:n]), nil); !api.IsKind(err, api.Corrupt) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
}

// FuzzReadFrame feeds the reader what a broken or hostile peer could send: it
// must neither panic nor allocate more than MaxFrame.
func FuzzReadFrame(f *testing.F) {
	f.Add(AppendFrame(nil, FrameStdin, []byte("text")))
	f.Add([]byte{'1', 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{'r', 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		for {
			ft, p, err := ReadFrame(r, make([]byte, 16))
			if err != nil {
				return
			}
			if len(p) > MaxFrame || !strings.ContainsRune("0123qr", rune(ft)) {
				t.Fatalf("accepted type %q with %d bytes", ft, len(p))
			}
		}
	})
}

func TestValidID(t *testing.T) {
	for id, want := range map[string]bool{
		"web": true, "0a": true, "a.b_c-d": true, strings.Repeat("a", 128): true,
		"": false, ".": false, "..": false, ".a": false, "a/b": false, "a b": false, "a\x00": false, strings.Repeat("a", 129): false,
	} {
		if ValidID(id) != want {
			t.Errorf("ValidID(%q) = %v", id, !want)
		}
	}
}

func TestSocketPathTooLong(t *testing.T) {
	long := "/" + strings.Repeat("a", 200)
	for _, err := range []error{
		func() error { _, err := Dial(t.Context(), long); return err }(),
		func() error { _, err := Listen(long); return err }(),
	} {
		if err == nil || !strings.Contains(err.Error(), "choose a shorter run directory") {
			t.Errorf("error = %v", err)
		}
	}
}
