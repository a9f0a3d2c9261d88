// Package attack carries out the attacks by which container runtimes and
// engines have fallen, each named after its class and its CVEs, and looks
// whether the host is as before.
//
// An attack on a runtime is described once and carried out against any OCI
// runtime. "go test" carries all of them out against berth-oci, which must
// withstand; "make attacks" does the same to runc and crun where they are
// installed, compares what a container of Berth and one of dockerd can reach by
// default, and writes docs/attacks.md.
//
// No attack aims at what would hurt this machine: victims are directories and
// copies that the attack made itself, and files of /proc are opened for writing
// but never written.
package attack
