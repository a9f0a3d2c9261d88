// Package link makes and removes the network devices of the host and of a
// network namespace: bridges, veth pairs, taps, addresses, routes and the
// sysctls that belong to them. It runs no program.
//
// It knows nothing of instances: names, addresses and namespaces arrive
// finished. Everything is idempotent in the direction of the wanted state:
// making what is there already is a success, and so is removing what is not.
//
// # Namespaces
//
// A network namespace is given as an open descriptor. The calls work on a
// thread of their own that enters it and comes back; the caller's threads never
// change their namespace. The namespace may belong to another user namespace:
// the caller needs CAP_SYS_ADMIN and CAP_NET_ADMIN in that.
//
// # IPv6
//
// Berth's networks carry IPv4 only. IPv6 is switched off on the bridge and on
// every interface plugged into it, so that no link-local address becomes a way
// around the rules for IPv4. Loopback keeps ::1.
package link
