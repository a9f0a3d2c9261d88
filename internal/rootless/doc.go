// Package rootless lets an ordinary user run berthd. The daemon runs as root of a user
// namespace that maps the user and his subordinate ids, with mounts and a network of
// its own, in which everything works as it does for the host's root. What does not is
// the way in and out, since the host's network takes no interface from such a user:
//
//	         the user's own namespaces          │  user, mount, network namespaces
//	                                            │
//	berth-rootless launch ── passes signals on ─┼─▶ berthd ─▶ keeper, berth-oci, containers
//	     │ starts                               │     │ which ports to lead
//	     ▼                                      │     ▼
//	berth-rootless forward ◀── RUN/rootless/forward.sock
//	     │  listens on the host's ports         │
//	     │  asks for sockets in there ──────────┼─▶ berth-rootless hold
//	     ▼                                      │       keeps the namespaces
//	pasta ── carries what goes out ─────────────┼─▶ tap device
//
// hold and forward outlive berthd: a killed daemon's containers go on, reach the world
// and are reached, and the next daemon finds the same namespaces.
//
// # Published ports
//
// A connection to a published port is accepted on the host by forward, and connected
// anew on the inside from a socket bound to the client's own address (IP_TRANSPARENT,
// which root of the network namespace may use): the container sees who calls. Its
// answers, to an address that is not of the inside, come to that socket by a mark on
// the connection and a routing rule; see transparent.go. pasta could do the same, but
// takes its ports at its start only, and to add one would mean to cut the others.
// A client on the host's loopback appears as the gateway, as it does for root.
//
// # Files
//
//	RUN/rootless/lock           held while somebody starts hold or forward
//	RUN/rootless/hold.sock      gives the namespaces and sockets in them
//	RUN/rootless/forward.sock   takes the ports to lead
//	RUN/rootless/resolv.conf    /etc/resolv.conf of the inside: pasta is the name server
package rootless
