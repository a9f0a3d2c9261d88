// Package rackwire is what a test and the hosts of its rack say to each other:
// JSON values, one after another, over a virtio-serial port.
//
//	test                                   host
//	                    ◀── {ready}        it has booted
//	{id, argv} ──▶                         start a command
//	{id, stdin}, {id, close_stdin} ──▶     feed it
//	{id, kill} ──▶                         end it
//	                    ◀── {id, stdout}   any number, any order
//	                    ◀── {id, stderr}
//	                    ◀── {id, done, exit, error}   last
//
// Any number of commands run at once.
package rackwire

// Port is the name of the virtio-serial port.
const Port = "rack"

// Request is what the test says.
type Request struct {
	ID         int      `json:"id"`
	Argv       []string `json:"argv,omitempty"`
	Env        []string `json:"env,omitempty"` // added to the host's
	Stdin      []byte   `json:"stdin,omitempty"`
	CloseStdin bool     `json:"close_stdin,omitempty"`
	Kill       bool     `json:"kill,omitempty"`
}

// Response is what the host says.
type Response struct {
	ID     int    `json:"id"`
	Ready  bool   `json:"ready,omitempty"`
	Stdout []byte `json:"stdout,omitempty"`
	Stderr []byte `json:"stderr,omitempty"`
	Done   bool   `json:"done,omitempty"`
	Exit   int    `json:"exit,omitempty"`  // -1 where a signal ended it
	Error  string `json:"error,omitempty"` // it could not be run
}
