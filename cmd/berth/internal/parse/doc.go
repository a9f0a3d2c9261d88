// Package parse reads the values that docker users write behind flags (sizes,
// ports, volumes, times, …) into Berth's own types. Every function is pure,
// and fails with one line that names the value, what is wrong with it, and how
// to write it.
package parse
