package instance

import "slices"

// furnished are the files of a root filesystem that every run is given anew.
var furnished = []string{"etc/hostname", "etc/hosts", "etc/resolv.conf"}

// Furnished reports whether a file, named from the root, is no instance's own but
// given to each run anew: it is not part of what an instance has changed.
func Furnished(name string) bool { return slices.Contains(furnished, name) }
