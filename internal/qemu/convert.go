package qemu

import "fmt"

// Conversion reads a disk that comes from strangers, by qemu-img, which Launch
// confines as it does a machine: to a user of its own, away from the host's
// files, processes and network, and to what is shown to it here.
type Conversion struct {
	Program    string // qemu-img
	From       string // a file that the user may read
	FromFormat string
	Base       string // a raw file below From, whose header names none; "" for none
	To         string // an existing file of the user's; "" to check From alone
	ToFormat   string
	UID        uint32
	MaxFile    int64 // bytes that To may have
}

// What a conversion may use: reading a disk of any size takes a few buffers, and
// a program that does not end is no converter.
const (
	convertMemory = 2 << 30 // of address space, in bytes: the libraries alone take a quarter
	convertTime   = 30 * 60 // seconds of a processor
)

// Plan returns what Launch carries out. It is a pure function.
func (c Conversion) Plan() *Plan {
	p := &Plan{UID: c.UID, MaxFile: c.MaxFile, MaxMemory: convertMemory, MaxTime: convertTime}
	show := func(name, path, mode string) string {
		p.Shown = append(p.Shown, Shown{Path: path, Name: name, Mode: mode})
		return name
	}
	from := show("/from", c.From, "")
	if c.To == "" {
		p.Args = []string{c.Program, "check", "-q", "-f", c.FromFormat, from}
		return p
	}
	p.Args = []string{c.Program, "convert"}
	if c.Base == "" {
		p.Args = append(p.Args, "-f", c.FromFormat)
	} else {
		// What lies below is said here and not by the header, which its guest's machine has
		// written.
		from = fmt.Sprintf("driver=%s,file.driver=file,file.filename=%s,backing.driver=raw,backing.file.driver=file,backing.file.filename=%s",
			c.FromFormat, from, show("/base", c.Base, ""))
		p.Args = append(p.Args, "--image-opts")
	}
	p.Args = append(p.Args, "-O", c.ToFormat)
	if c.ToFormat == "vmdk" {
		p.Args = append(p.Args, "-o", "subformat=streamOptimized")
	}
	p.Args = append(p.Args, from, show("/to", c.To, "rw"))
	return p
}
