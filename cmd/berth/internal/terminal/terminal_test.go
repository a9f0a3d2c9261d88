package terminal

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"
)

func TestDetacher(t *testing.T) {
	for _, c := range []struct {
		name, keys, in, out string
		detached            bool
	}{
		{"no keys", "", "ab\x10\x11", "ab\x10\x11", false},
		{"row", "\x10\x11", "ab\x10\x11cd", "ab", true},
		{"row at once", "\x10\x11", "\x10\x11", "", true},
		{"half at the end", "\x10\x11", "ab\x10", "ab\x10", false},
		{"broken row", "\x10\x11", "\x10a\x10\x11", "\x10a", true},
		{"row after its own beginning", "\x10\x11", "\x10\x10\x11", "\x10", true},
		{"overlap", "aab", "aaab", "a", true},
		{"overlap, no end", "aab", "aacaaa", "aacaaa", false},
		{"one key", "q", "abq", "ab", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, r := range []io.Reader{strings.NewReader(c.in), iotest.OneByteReader(strings.NewReader(c.in)), iotest.DataErrReader(strings.NewReader(c.in))} {
				got, err := io.ReadAll(&Detacher{R: r, Keys: []byte(c.keys)})
				if string(got) != c.out || errors.Is(err, ErrDetached) != c.detached {
					t.Errorf("passed %q, %v; want %q, detached %t", got, err, c.out, c.detached)
				}
			}
		})
	}
}

// Whatever is typed, in whatever pieces: what passes is what stands before the
// first row of keys.
func TestDetacherProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keys := rapid.StringOfN(rapid.RuneFrom([]rune("ab")), 1, 4, -1).Draw(t, "keys")
		in := rapid.StringOfN(rapid.RuneFrom([]rune("abc")), 0, 40, -1).Draw(t, "in")
		want, _, found := strings.Cut(in, keys)
		if !found {
			want = in
		}
		got, err := io.ReadAll(&Detacher{R: iotest.HalfReader(strings.NewReader(in)), Keys: []byte(keys)})
		if string(got) != want || errors.Is(err, ErrDetached) != found {
			t.Fatalf("keys %q, typed %q: passed %q, %v; want %q", keys, in, got, err, want)
		}
	})
}
