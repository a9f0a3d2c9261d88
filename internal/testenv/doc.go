// Package testenv is what tests of Berth stand on.
//
// # Three worlds
//
// One test body runs against fakes in the test's own process, against the real
// kernel as root, and in a rack: hosts that QEMU boots, joined by a virtual
// network. Daemon starts a whole berthd in a directory of the test's own; Rack
// boots hosts and starts one in each.
//
// # No test leaves anything behind
//
// Check compares the machine before and after a test: goroutines, file
// descriptors, processes, mounts, loop devices, network interfaces, network
// namespaces and cgroups. Other tests run at the same time, so it counts only
// what can be told to be this test's:
//
//   - goroutines and file descriptors of this process. Tests that call
//     t.Parallel disturb each other here: they leave Check to Main;
//   - processes that descend from this one, that inherited its environment, or
//     whose arguments name a directory of the test;
//   - mounts and loop devices below the directories of the test: those of
//     t.TempDir and Dir;
//   - interfaces, network namespaces and cgroups whose name contains the
//     test's Token. Name makes such names.
package testenv
