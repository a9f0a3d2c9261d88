// Command rackhost is process 1 of a host of a test rack. In the initramfs it
// loads modules and builds the root filesystem; then it starts itself again as
// the agent that runs what tests ask for, and reaps orphans for as long as the
// agent lives.
//
//	initramfs: /init (this), /modules/NN-name.ko
//	disks:     root  EROFS, read-only, shared by all hosts: Debian with QEMU
//	           bin   EROFS, read-only: Berth's programs, at /opt/berth
//	           data  ext4, the host's own: survives its reboot, at /data
//
// The kernel's command line says rack.name=NAME and rack.addr=ADDRESS/LENGTH. With
// rack.init=PROGRAM that program, systemd, becomes process 1, and the agent its service.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "agent" {
		if err := serve(); err != nil {
			fmt.Fprintln(os.Stderr, "rackhost: agent:", err)
			os.Exit(1)
		}
		return
	}
	err := boot()
	switch init := parameter("rack.init"); {
	case err != nil:
	case init != "":
		err = handOver(init)
	default:
		err = supervise()
	}
	fmt.Fprintln(os.Stderr, "rackhost:", err)
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// agentPath is where the agent finds programs.
const agentPath = "PATH=/opt/berth:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// unit makes the agent a service of systemd's; without it the host is of no use.
const unit = `[Unit]
After=dbus.socket basic.target
Requires=dbus.socket
FailureAction=poweroff-immediate
[Service]
ExecStart=/sbin/rackhost agent
Environment=` + agentPath + ` HOME=/root TERM=dumb
KillMode=process
TasksMax=infinity
`

// handOver makes init, systemd, process 1; it returns why it cannot.
func handOver(init string) error {
	const dir, name = "/run/systemd/system/", "rackhost.service"
	if err := os.MkdirAll(dir+"multi-user.target.wants", 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(dir+name, []byte(unit), 0o644); err != nil {
		return err
	}
	if err := os.Symlink("../"+name, dir+"multi-user.target.wants/"+name); err != nil {
		return err
	}
	return unix.Exec(init, []string{init}, []string{"TERM=dumb"})
}

// supervise starts the agent and reaps everything; it returns why it cannot.
func supervise() error {
	agent := exec.Command("/sbin/rackhost", "agent")
	agent.Stdout, agent.Stderr = os.Stdout, os.Stderr
	agent.Env = []string{agentPath, "HOME=/root", "TERM=dumb"}
	if err := agent.Start(); err != nil {
		return err
	}
	for {
		pid, err := unix.Wait4(-1, nil, 0, nil)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if pid == agent.Process.Pid {
			return errors.New("the agent ended")
		}
	}
}

// parameter returns the value of name=value on the kernel's command line.
func parameter(name string) string {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return ""
	}
	for word := range strings.FieldsSeq(string(line)) {
		if value, ok := strings.CutPrefix(word, name+"="); ok {
			return value
		}
	}
	return ""
}
