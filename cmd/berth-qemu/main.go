// Command berth-qemu opens what a virtual machine may touch, gives up all other
// rights, and becomes QEMU. It is started by berth-keeper with the path of a
// plan (package qemu) and is not meant for users.
package main

import (
	"fmt"
	"os"

	"github.com/berthcloud/berth/internal/qemu"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: berth-qemu PLAN")
		os.Exit(2)
	}
	data, err := os.ReadFile(os.Args[1])
	if err == nil {
		var plan *qemu.Plan
		if plan, err = qemu.DecodePlan(data); err == nil {
			err = qemu.Launch(plan)
		}
	}
	fmt.Fprintln(os.Stderr, "berth-qemu:", err)
	os.Exit(1)
}
