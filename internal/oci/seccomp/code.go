package seccomp

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

// Comparison operations of BPF.
const (
	opEqual   = unix.BPF_JEQ
	opGreater = unix.BPF_JGT
	opAtLeast = unix.BPF_JGE
)

// code is a piece of a program that ends in returns.
type code []Instruction

func load(offset uint32) Instruction {
	return Instruction{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func and(mask uint32) Instruction {
	return Instruction{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: mask}
}

func ret(v uint32) Instruction { return Instruction{Code: unix.BPF_RET | unix.BPF_K, K: v} }

func jump(op uint16, k uint32, jt, jf uint8) Instruction {
	return Instruction{Code: unix.BPF_JMP | op | unix.BPF_K, JT: jt, JF: jf, K: k}
}

// jumpIf returns the comparison that stands before the code no, followed by the
// code yes: it goes to yes where the accumulator compares true with k. Conditional
// jumps reach 255 instructions; a longer no is jumped over in two steps. With a nil
// yes the comparison's sense is the opposite: no is run where it holds, skipped
// where not.
func jumpIf(op uint16, k uint32, yes, no code) code {
	n := len(no)
	if yes == nil {
		if n <= 255 {
			return code{jump(op, k, 0, uint8(n))}
		}
		return code{jump(op, k, 1, 0), {Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(n)}}
	}
	if n <= 255 {
		return code{jump(op, k, uint8(n), 0)}
	}
	return code{jump(op, k, 0, 1), {Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(n)}}
}

// interval is a run of numbers, from its first up to the next interval's, with one
// piece of code.
type interval struct {
	first uint32
	code  code
}

// tree returns the code that finds the verdict for the number in the accumulator.
func (a *arch) tree(rules []rule, def uint32) code {
	leaves, highest := a.leaves(rules)
	var list []interval
	add := func(first uint32, c code) {
		if n := len(list); n > 0 && same(list[n-1].code, c) {
			return
		}
		list = append(list, interval{first, c})
	}
	next := uint32(0)
	for i := range leaves {
		l := &leaves[i]
		if l.nr > next {
			add(next, code{ret(def)})
		}
		add(l.nr, a.leaf(l, def))
		next = l.nr + 1
	}
	beyond := def
	if refuses(def) {
		beyond = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	}
	if len(leaves) == 0 {
		highest, beyond = 0, def
	}
	if next <= highest {
		add(next, code{ret(def)})
	}
	add(max(next, highest+1), code{ret(beyond)})
	if list[0].first != 0 {
		list = append([]interval{{0, code{ret(def)}}}, list...)
	}
	return search(list)
}

// same reports whether two pieces of code are one plain return of the same verdict.
func same(a, b code) bool { return len(a) == 1 && len(b) == 1 && a[0] == b[0] }

// search returns a binary search over intervals, of which there is at least one.
func search(list []interval) code {
	if len(list) == 1 {
		return list[0].code
	}
	mid := len(list) / 2
	low, high := search(list[:mid]), search(list[mid:])
	out := jumpIf(opAtLeast, list[mid].first, high, low)
	return append(append(out, low...), high...)
}

// leaf returns the code for one call: its rules one after another, then the
// default.
func (a *arch) leaf(l *leaf, def uint32) code {
	rest := code{ret(def)}
	for _, r := range slices.Backward(l.rules) {

		body := code{ret(r.ret)}
		if len(r.conds) == 0 {
			rest = body // nothing after it can be reached
			continue
		}
		for _, v := range slices.Backward(r.conds) {
			body = append(a.condition(v, len(body)), body...)
		}
		rest = append(body, rest...)
	}
	return rest
}

// condition returns the code that goes on where c holds and skips n more
// instructions where it does not.
//
// BPF compares 32 bits, so a 64-bit argument is compared in halves. A 32-bit
// architecture has only the low one.
func (a *arch) condition(c specs.LinuxSeccompArg, n int) code {
	lowAt, highAt := offArgs+8*uint32(c.Index), offArgs+8*uint32(c.Index)+4
	if a.big {
		lowAt, highAt = highAt, lowAt
	}
	low, high := uint32(c.Value), uint32(c.Value>>32)
	fail := uint8(n)
	switch c.Op {
	case specs.OpEqualTo:
		return a.halves(highAt, code{jump(opEqual, high, 0, fail+2)}, code{load(lowAt), jump(opEqual, low, 0, fail)})
	case specs.OpNotEqual:
		return a.halves(highAt, code{jump(opEqual, high, 0, 2)}, code{load(lowAt), jump(opEqual, low, fail, 0)})
	case specs.OpMaskedEqual:
		wantLow, wantHigh := uint32(c.ValueTwo), uint32(c.ValueTwo>>32)
		return a.halves(highAt, code{and(high), jump(opEqual, wantHigh, 0, fail+3)},
			code{load(lowAt), and(low), jump(opEqual, wantLow, 0, fail)})
	case specs.OpGreaterThan, specs.OpGreaterEqual:
		op := uint16(opGreater)
		if c.Op == specs.OpGreaterEqual {
			op = opAtLeast
		}
		return a.halves(highAt, code{jump(opGreater, high, 3, 0), jump(opEqual, high, 0, fail+2)},
			code{load(lowAt), jump(op, low, 0, fail)})
	default: // less than, less or equal: the opposite of at least, greater than
		op := uint16(opAtLeast)
		if c.Op == specs.OpLessEqual {
			op = opGreater
		}
		return a.halves(highAt, code{jump(opGreater, high, fail+3, 0), jump(opEqual, high, 0, 2)},
			code{load(lowAt), jump(op, low, fail, 0)})
	}
}

// halves joins the tests of the high and the low half of an argument.
func (a *arch) halves(highAt uint32, high, low code) code {
	if !a.wide {
		return low
	}
	return append(append(code{load(highAt)}, high...), low...)
}
