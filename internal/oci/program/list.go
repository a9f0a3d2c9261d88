package program

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// List writes the segment down for people, an instruction a line; name gives system
// calls their names. Addresses of strings are shown as what they hold, other data by
// its offset.
//
//	12  openat2([+204], "/proc", +1c8, 24) → +20c; ENOENT: 17  // mounts[0] (/proc): /proc
func (b *Builder) List(name func(number int) string) string {
	b.link()
	texts, strs := map[uint32]string{}, map[int32]string{}
	for s, r := range b.texts {
		texts[uint32(r)] = s
	}
	for s, r := range b.strings {
		strs[int32(r)] = s
	}
	show := func(v int32, load bool) string {
		if s, ok := strs[v]; ok && !load {
			return fmt.Sprintf("%q", s)
		}
		at := fmt.Sprint(v)
		switch base := int32(b.dataAt); {
		case v >= base && v < base+int32(len(b.data)):
			at = fmt.Sprintf("+%x", v-base)
		case v >= blockBase && v < blockBase+segmentLength:
			at = fmt.Sprintf("first+%x", v-blockBase)
		}
		if load {
			return "[" + at + "]"
		}
		return at
	}
	var out strings.Builder
	for n := range b.code {
		i := &b.code[n]
		fmt.Fprintf(&out, "%3d  %s", n, i.describe(name, show))
		if i.next != 1 && i.op != opFail && i.op != opJump {
			fmt.Fprintf(&out, "; then %d", n+int(i.next))
		}
		for _, c := range i.catch {
			switch {
			case c.errno == 0:
			case i.op != opCall:
				fmt.Fprintf(&out, "; else %d", n+int(c.target))
			case unix.Errno(c.errno) == AnyError:
				fmt.Fprintf(&out, "; any error: %d", n+int(c.target))
			default:
				fmt.Fprintf(&out, "; %s: %d", unix.ErrnoName(unix.Errno(c.errno)), n+int(c.target))
			}
		}
		if text := strings.TrimSuffix(b.at(i.where)+texts[i.text], ": "); text != "" {
			fmt.Fprintf(&out, "  // %s", text)
		}
		out.WriteByte('\n')
	}
	return out.String()
}

// at returns a counted string.
func (b *Builder) at(address uint32) string {
	begin := address - b.dataAt
	if address < b.dataAt || int(begin) > len(b.data) {
		return ""
	}
	length := uint32(b.data[begin-4]) | uint32(b.data[begin-3])<<8
	return string(b.data[begin : begin+length])
}

func (i *instruction) describe(name func(int) string, show func(int32, bool) string) string {
	arg := func(n int) string { return show(i.args[n], i.load&(1<<n) != 0) }
	switch i.op {
	case opCall:
		last := len(i.args)
		for last > 0 && i.args[last-1] == 0 {
			last--
		}
		var args []string
		for n := range last {
			args = append(args, arg(n))
		}
		s := name(int(i.number)) + "(" + strings.Join(args, ", ") + ")"
		if i.store != 0 {
			s += " → " + show(int32(i.store), false)
		}
		return s
	case opTest:
		return fmt.Sprintf("test %s & %#x = %s", arg(0), uint32(i.args[1]), arg(2))
	case opSet:
		if Slot(i.args[0]) == scratch {
			return "go on"
		}
		return fmt.Sprintf("set %s to %s", arg(0), arg(1))
	case opJump:
		return "jump to " + arg(0)
	}
	return fmt.Sprintf("fail with %d", i.code)
}
