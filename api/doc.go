// Package api holds the nouns of Berth: what an instance, an image, a volume
// and a network are, in which states they can be, and how they fail.
//
// The types travel unchanged between the command line, the REST API, the
// engine and the disk. The package imports only the standard library, so that
// everything else may import it.
//
// Values that reach a wire or a disk are strings, never iota: their meaning
// must survive a reordering of the source.
package api

// Version is the version of the REST API; every path begins with "/v1".
const Version = "v1"
