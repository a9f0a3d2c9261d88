// Package e2e tests Berth as its users meet it: the berth command against a
// whole daemon. Each scenario is one function that takes the kind of instance
// and runs in up to three worlds:
//
//   - fakes: the engine in this process, with drivers that isolate nothing;
//   - local: a berthd on this machine's kernel, in a network namespace of its
//     own, containers and VMs without hardware support;
//   - rack: a berthd on a Debian host that QEMU boots, with cgroup v2 alone,
//     Debian's kernel and nested KVM.
//
// A world ends with a leak check.
package e2e
