// Package build makes images of Dockerfiles: it starts a builder, a process with BuildKit
// in it (package builder), and gives it what is this daemon's.
//
//	berth build ──gRPC in a websocket──▶ berthd ──the same bytes──▶ berth-builder
//	                                       ▲                          │      │
//	                                       └── store.sock ────────────┘      └── own keeper ──▶ steps
//	                                           content, leases, images, snapshots; ids, endpoints
//
// A builder is made by the first build and ends some minutes after the last: BuildKit
// would add a sixth to the memory of a daemon that builds nothing. It has a mount
// namespace of its own, so that what it mounts is never the host's and ends with it.
//
// It keeps nothing of value. Blobs, names, leases and snapshots are in the image store,
// which the daemon alone has open and shows on a socket by containerd's own services; a
// result is in its place once it has a name. Below ROOT/build are indexes that a builder
// can make anew and the directories of snapshots.
//
// Builds that are not trusted have a service and a builder of their own, whose steps run in
// VMs: the same below ROOT/build-vm and RUN/build-vm, but for the snapshots.
//
//	ROOT/build/snapshots/   what steps changed, as overlay directories
//	ROOT/build/*.db         BuildKit's indexes of the cache
//	ROOT/build/tmp/         emptied by each builder
//	RUN/build/              sockets, keeper, steps that run
//
// The end of the daemon, however it comes, closes the builder's standard input, which
// ends it. Steps that are left, by a builder that was killed, are ended by sweep.
package build
