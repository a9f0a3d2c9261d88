package program

import "golang.org/x/sys/unix"

const (
	elfMachine     = 62 // EM_X86_64
	sysExitGroup   = unix.SYS_EXIT_GROUP
	signalRestorer = 0x04000000 // SA_RESTORER: the kernel wants it, though the handler does not return
)
