package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// kvmCreateVM is KVM_CREATE_VM of the kernel's kvm.h.
const kvmCreateVM = 0xae01

// holdVM keeps an empty VM of KVM's until the file is closed. The first VM and the last
// one have KVM patch the scheduler (preempt_notifier_key), and an emulated processor of
// QEMU before 8.1 may go on with the breakpoint that stands there for a moment (QEMU
// commit deba78709ae8): then it traps forever. So the first VM is made while nothing
// runs yet, and the last one never goes.
func holdVM() (*os.File, error) {
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer kvm.Close()
	vm, err := unix.IoctlRetInt(int(kvm.Fd()), kvmCreateVM)
	if err != nil {
		return nil, os.NewSyscallError("KVM_CREATE_VM", err)
	}
	return os.NewFile(uintptr(vm), "vm"), nil
}
