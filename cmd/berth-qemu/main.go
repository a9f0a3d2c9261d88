// Command berth-qemu opens what a virtual machine may touch, gives up all other
// rights, and becomes QEMU, or becomes the virtiofsd that serves it a
// directory or the swtpm that is its TPM. It is started by berth-keeper with the path of a plan (package
// qemu), and of a machine with the cgroups that it is to be in, and is not meant for users. As the user of a QEMU that runs it raises how large a file that may
// make.
package main

import (
	"fmt"
	"os"

	"github.com/berthcloud/berth/internal/qemu"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "berth-qemu:", err)
		os.Exit(1)
	}
}

// run returns an error, but for a limit that was raised: else this process becomes
// another program.
func run(args []string) error {
	if len(args) == 4 && args[0] == qemu.FileLimit {
		return qemu.SetFileLimit(args[1:])
	}
	if len(args) != 2 && (len(args) < 2 || args[0] != "machine") {
		return fmt.Errorf("usage: berth-qemu machine PLAN [CGROUP...], share|tpm PLAN, or %s PID UID BYTES", qemu.FileLimit)
	}
	data, err := os.ReadFile(args[1])
	if err != nil {
		return err
	}
	switch args[0] {
	case "machine":
		plan, err := qemu.DecodePlan(data)
		if err != nil {
			return err
		}
		return qemu.Launch(plan, args[2:])
	case "share":
		server, err := qemu.DecodeServer(data)
		if err != nil {
			return err
		}
		return qemu.LaunchServer(server)
	case "tpm":
		tpm, err := qemu.DecodeTPM(data)
		if err != nil {
			return err
		}
		return qemu.LaunchTPM(tpm)
	}
	return fmt.Errorf("unknown command %q", args[0])
}
