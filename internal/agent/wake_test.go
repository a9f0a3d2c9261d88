package agent

import (
	"testing"
	"time"
)

// TestWake encodes the record that wakes a copy of a template, and reads it back.
func TestWake(t *testing.T) {
	want := Wake{Time: time.Unix(1764000000, 123456789), Seed: [seedSize]byte{1, 2, 3, seedSize - 1: 4}}
	data := want.Encode()
	if len(data) != WakeSize {
		t.Fatalf("%d bytes, want %d", len(data), WakeSize)
	}
	got, err := DecodeWake(data)
	if err != nil || !got.Time.Equal(want.Time) || got.Seed != want.Seed {
		t.Errorf("read back %+v, %v", got, err)
	}
	for _, wrong := range [][]byte{nil, data[1:], append(data, 0)} {
		if _, err := DecodeWake(wrong); err == nil {
			t.Errorf("%d bytes are no error", len(wrong))
		}
	}
}
