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

// reach is how far a conditional jump goes, in instructions.
const reach = 255

// label is a place in a program: how many instructions stand from there to the end.
type label int

// code is a program that is written from its end to its beginning, because BPF only
// jumps forward: wherever a jump goes to is there already.
type code struct {
	list []Instruction // the last instruction first
	rets []label       // of the returns, to be shared by whatever is near enough
}

// here is the place that execution reaches without a jump.
func (c *code) here() label { return label(len(c.list)) }

// add puts an instruction before all others.
func (c *code) add(i Instruction) label {
	c.list = append(c.list, i)
	return c.here()
}

func (c *code) load(offset uint32) label {
	return c.add(Instruction{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset})
}

func (c *code) and(mask uint32) label {
	return c.add(Instruction{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: mask})
}

// ret returns a place that ends with the verdict.
func (c *code) ret(verdict uint32) label {
	for i, l := range c.rets {
		if c.list[l-1].K != verdict {
			continue
		}
		// Half of the reach is left to whoever jumps there later; it does not have to
		// be enough, see near.
		if c.here()-l > reach/2 {
			c.rets[i] = c.add(c.list[l-1])
		}
		return c.rets[i]
	}
	l := c.add(Instruction{Code: unix.BPF_RET | unix.BPF_K, K: verdict})
	c.rets = append(c.rets, l)
	return l
}

// near returns l, or a jump to it where it is too far for a conditional jump that
// is the next or the next but one to be added.
func (c *code) near(l label) label {
	if distance := c.here() - l; distance >= reach {
		return c.add(Instruction{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(distance)})
	}
	return l
}

// jump adds a comparison of the accumulator with k.
func (c *code) jump(op uint16, k uint32, yes, no label) label {
	yes = c.near(yes)
	no = c.near(no)
	return c.add(Instruction{
		Code: unix.BPF_JMP | op | unix.BPF_K, K: k,
		JT: uint8(c.here() - yes), JF: uint8(c.here() - no),
	})
}

// interval is a run of numbers, from its first up to the next interval's, with one
// outcome.
type interval struct {
	first uint32
	leaf  leaf
}

// search adds a binary search for the number in the accumulator, over intervals of
// which there is at least one.
func (c *code) search(a *arch, list []interval) label {
	if len(list) == 1 {
		return c.leaf(a, &list[0].leaf)
	}
	mid := len(list) / 2
	high := c.search(a, list[mid:])
	low := c.search(a, list[:mid])
	return c.jump(opAtLeast, list[mid].first, high, low)
}

// leaf adds what happens to one call: its rules one after another, then the rest.
func (c *code) leaf(a *arch, l *leaf) label {
	next := c.ret(l.rest)
	for _, r := range slices.Backward(l.rules) {
		if len(c.list) > maxInstructions { // in vain, and it may be a hostile million
			break
		}
		yes := c.ret(r.ret)
		for j := range slices.Backward(r.conds) {
			yes = c.condition(a, &r.conds[j], yes, next)
		}
		next = yes
	}
	return next
}

// condition adds the test of one argument.
//
// BPF compares 32 bits, so a 64-bit argument is compared in halves. A 32-bit
// convention has only the low one.
func (c *code) condition(a *arch, cond *specs.LinuxSeccompArg, yes, no label) label {
	lowAt, highAt := offArgs+8*uint32(cond.Index), offArgs+8*uint32(cond.Index)+4
	if a.big {
		lowAt, highAt = highAt, lowAt
	}
	low, high := uint32(cond.Value), uint32(cond.Value>>32)
	switch cond.Op {
	case specs.OpMaskedEqual:
		l := c.masked(lowAt, low, uint32(cond.ValueTwo), yes, no)
		if a.wide {
			l = c.masked(highAt, high, uint32(cond.ValueTwo>>32), l, no)
		}
		return l
	case specs.OpEqualTo, specs.OpNotEqual:
		other := no
		if cond.Op == specs.OpNotEqual {
			yes, no, other = no, yes, yes
		}
		c.jump(opEqual, low, yes, no)
		l := c.load(lowAt)
		if a.wide {
			c.jump(opEqual, high, l, other)
			l = c.load(highAt)
		}
		return l
	case specs.OpLessThan, specs.OpLessEqual: // the opposite of at least, of greater than
		yes, no = no, yes
	}
	op := uint16(opGreater)
	if cond.Op == specs.OpGreaterEqual || cond.Op == specs.OpLessThan {
		op = opAtLeast
	}
	c.jump(op, low, yes, no)
	l := c.load(lowAt)
	if a.wide {
		if high != 0 {
			l = c.jump(opEqual, high, l, no)
		}
		c.jump(opGreater, high, yes, l)
		l = c.load(highAt)
	}
	return l
}

// masked adds the test of some bits of one half of an argument, for what they are in
// want (seccomp_rule_add(3): the masked argument equals the masked datum). Where no
// bit is asked for there is nothing to load.
func (c *code) masked(at, mask, want uint32, yes, no label) label {
	if mask == 0 {
		return yes
	}
	c.jump(opEqual, want&mask, yes, no)
	if mask != 0xffffffff {
		c.and(mask)
	}
	return c.load(at)
}
