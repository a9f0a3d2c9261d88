// Package qemu turns a wanted machine into a QEMU process and speaks to it.
//
// It has four parts that share no state:
//
//   - Plan, a pure function: machine in, arguments and open files out.
//   - Launch, which runs in a process of its own (cmd/berth-qemu): it opens the
//     plan's files, confines itself and becomes QEMU.
//   - Dial, a client of the machine protocol QMP.
//   - Probe, which finds out whether KVM runs real code here.
//
// QEMU never opens a file by a name that its own user could not open anyway:
// whatever it may touch is opened for it and handed over by descriptor. The
// format of a disk is always stated and never guessed from its content, which
// the guest writes.
package qemu
