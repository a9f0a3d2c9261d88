// Command berth-agent is the process 1 of a virtual machine that was made from
// an OCI image. The kernel starts it as /init of the initramfs.
package main

import "github.com/berthcloud/berth/internal/agent/guest"

func main() { guest.Main() }
