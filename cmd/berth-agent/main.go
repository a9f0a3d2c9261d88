// Command berth-agent is Berth's hand in a virtual machine. In one that was made from
// an OCI image it is process 1: the kernel starts it as /init of the initramfs. In one
// that starts from its disk it is a service of the init there. As the entrypoint of a
// machine that is only asked something, it waits to be ended.
package main

import (
	"fmt"
	"os"

	"github.com/berthcloud/berth/internal/agent"
	"github.com/berthcloud/berth/internal/agent/guest"
)

func main() {
	if os.Getpid() == 1 {
		guest.Main()
	}
	if len(os.Args) > 1 && os.Args[1] == agent.IdleArg {
		guest.Idle()
		return
	}
	fmt.Fprintln(os.Stderr, "berth-agent:", guest.Service())
	os.Exit(1)
}
