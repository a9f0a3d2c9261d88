// Package dropin holds berth-oci to its word that other engines can use it as
// their runtime: it starts Debian's dockerd, containerd and podman, each with
// directories, a network and a mount namespace of its own, tells them to run
// containers with berth-oci, and asks of each what its users ask. It has only tests.
//
// What is expected is what the same command line does with runc; where Debian's
// engines differ from each other, the scenario says so. docs/drop-in-runtime.md
// says how a user configures the engines.
package dropin
