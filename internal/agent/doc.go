// Package agent is the conversation between a host and berth-agent, the
// process 1 of a virtual machine that was made from an OCI image.
package agent
