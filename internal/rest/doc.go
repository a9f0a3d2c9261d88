// Package rest is Berth's own front end: HTTP and JSON under /v1 on a unix
// socket. It translates between requests and calls of the engine, and decides
// nothing.
//
// # Conventions
//
// A request's body is one JSON object: bounded, with no field that the
// operation does not know, and never left out where the operation takes one
// (CVE-2024-41110 was a proxy and a daemon that disagreed about an empty
// body). Parameters of actions without a body stand in the query; one that
// the operation does not know is refused too. Names in a path are
// percent-encoded, slashes included.
//
// A failure is an api.Problem with the status of the one table in errors.go.
//
// Answers that go on (logs, events, operations) are JSON values, one per line
// (application/x-ndjson); a failure after the first of them is a last line
// {"problem": …}. Files and images travel as tar streams; a failure after
// their first byte is in the trailer Berth-Problem. Standard streams travel
// over websockets, described in stream.go.
//
// # Who may call
//
// The socket's permissions decide: root, and the group berth where the host
// has one. Whoever may open it may do everything.
package rest
