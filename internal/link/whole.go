package link

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// wholeTries bounds how often a list is asked for: others change it all the time on a busy
// host, but not between each two of its parts.
const wholeTries = 50

// Whole returns what list does, asked again while the kernel says that the list was changed
// as it was read (NLM_F_DUMP_INTR, netlink(7)): it may lack what was there all the time.
func Whole[T any](list func() (T, error)) (T, error) {
	for try := 1; ; try++ {
		got, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) || try == wholeTries {
			return got, err
		}
	}
}
