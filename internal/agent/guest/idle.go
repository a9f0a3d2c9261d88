package guest

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// Idle is the entrypoint of a machine that is only asked something: it ends when it is
// told to.
func Idle() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, unix.SIGTERM)
	<-end
}
