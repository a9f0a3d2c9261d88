package link

import (
	"errors"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestWhole(t *testing.T) {
	calls := 0
	got, err := Whole(func() (int, error) {
		if calls++; calls < 3 {
			return 1, netlink.ErrDumpInterrupted
		}
		return 2, nil
	})
	if got != 2 || err != nil || calls != 3 {
		t.Errorf("%d, %v after %d calls", got, err, calls)
	}
	calls = 0
	if _, err := Whole(func() (int, error) { calls++; return 0, netlink.ErrDumpInterrupted }); !errors.Is(err, netlink.ErrDumpInterrupted) || calls != wholeTries {
		t.Errorf("%v after %d calls", err, calls)
	}
	failed := errors.New("another")
	if _, err := Whole(func() (int, error) { return 0, failed }); !errors.Is(err, failed) {
		t.Errorf("got %v", err)
	}
}
