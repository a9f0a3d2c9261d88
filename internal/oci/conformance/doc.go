// Package conformance runs the validation suite of the Open Container Initiative
// (github.com/opencontainers/runtime-tools, pinned in tools/conformance/go.mod)
// against berth-oci. docs/runtime-conformance.md says what came of it, beside runc
// and crun.
//
// The suite is some 58 programs that print their cases in the Test Anything Protocol.
// A program that ends with an error, or that has no case and prints an error instead,
// counts as one more case that failed.
package conformance
