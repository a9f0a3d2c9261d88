// Package program carries out lists of system calls in a process that has no runtime:
// what a container's first process does between its birth and its workload.
//
// A second Go program in that place would cost a millisecond of start-up, hundreds of
// page faults and threads that execve has to kill. Here the process executes a file of
// one page, the machine, written in assembly: it maps memory, receives a Program from
// the runtime over a socket and carries it out. All thought is in the runtime, which
// compiles what is to be done; the machine knows five instructions:
//
//	call   issue a system call; store its result; go on, or where its errno is caught
//	test   compare masked memory with a value; go on, or elsewhere, or report an error
//	set    store a number
//	jump   go on at an address that a slot holds, or at a fixed one
//	fail   report an error that is not a system call's
//
// An errno that is not caught ends the program: the machine sends the text that belongs
// to the instruction over the socket and exits. So whoever listens needs to know nothing
// of the program, which matters when create has ended and another process starts the
// container.
//
// The machine's file is a sealed one in memory, so /proc/PID/exe leads to nothing of the
// host's while the process lives in the container (CVE-2019-5736).
//
// # Memory
//
// Each Segment has its instructions and its data at addresses fixed beforehand, so
// pointers are plain numbers and nothing is relocated. The first one's data begin with
// the block through which errors are reported (report.go).
package program

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// Segment is one of the places of a program. Each says what is known to be done when it
// is sent.
type Segment int

// The segments.
const (
	First  Segment = iota // to get into namespaces (package spawn)
	Second                // what to do there (package stage)
	Third                 // what to execute, once that has been looked up
)

// Addresses that nothing else in the process has: it is loaded at codeBase (elf.go),
// and the kernel places stack and vDSO far above.
const (
	codeBase      = 0x00400000
	segmentBase   = 0x10000000
	segmentLength = 0x10000000
	dataOffset    = 0x04000000 // of a segment's data from its instructions
	blockBase     = segmentBase + dataOffset
)

// maxData bounds the data of a segment, in bytes.
const maxData = segmentLength - dataOffset

// scratch holds what nobody looks at.
const scratch Slot = blockBase + blockScratch

func (s Segment) code() uint32 { return segmentBase + uint32(s)*segmentLength }
func (s Segment) data() uint32 { return s.code() + dataOffset }

// Operations of an instruction.
const (
	opCall = iota
	opTest
	opSet
	opJump
	opFail
)

// catches is how many errnos an instruction can catch.
const catches = 4

// AnyError catches every errno that no earlier catch names.
const AnyError unix.Errno = 0xffff

// instruction as the machine reads it: 64 bytes. Where to go on is said in instructions
// from this one.
type instruction struct {
	op     uint8
	load   uint8    // call, jump: bit i says that args[i] is the address of an int32 to load
	number uint16   // call: of the system call
	args   [6]int32 // call: arguments. test: address, mask, value. set: address, value. jump: address
	store  uint32   // call: address for the result as an int32, or 0
	where  uint32   // addresses of what is reported with an error: see Builder.text
	text   uint32
	next   int16
	catch  [catches]catch // test: the first one's target is where to go on when unequal, 0 to fail
	code   uint8          // exit status that goes with an error
	_      [5]byte
}

type catch struct {
	errno  uint16
	target int16
}

const (
	instructionSize  = 64
	instructionShift = 6
	maxInstructions  = 1 << 15
)

// Arg is an argument of a system call.
type Arg struct {
	value int32
	load  bool
}

// N is a number as an argument. It has 32 bits, and the system call gets its sign
// extended: what no call of ours wants more of.
func N[T ~int | ~uint | ~int32 | ~uint32 | ~uint64 | ~uintptr](n T) Arg {
	if high := int32(uint64(n) >> 32); high != 0 && high != -1 {
		panic("program: a number of more than 32 bits")
	}
	return Arg{value: int32(n)}
}

// Slot is an int32 in the memory of the program, where results of calls are kept.
type Slot uint32

// Value makes what the slot then holds an argument.
func (s Slot) Value() Arg { return Arg{value: int32(s), load: true} }

// Ref is the address of data of the program.
type Ref uint32

// Arg makes the address an argument.
func (r Ref) Arg() Arg { return Arg{value: int32(r)} }

// At is the address of a later byte of the same data.
func (r Ref) At(offset uintptr) Ref { return r + Ref(offset) }

// Label is a place in the instructions, to be set once with Builder.Here.
type Label int

// Next is the label of whatever instruction follows the one that names it.
const Next Label = -1

// Builder makes one segment. It panics on what only a mistake of its caller's can
// bring about, such as a label that is never set.
type Builder struct {
	codeAt  uint32 // addresses
	dataAt  uint32
	code    []instruction
	data    []byte
	strings map[string]Ref
	labels  []int // index of an instruction, or unset
	jumps   []jump
	texts   map[string]Ref
	where   string // see In
	whereAt Ref
	rescue  Label // see Try
}

const unset = -1

// jump is a distance to be filled in once its label is set.
type jump struct {
	at    int // instruction
	catch int // of it, or nextOf, or slotOf
	label Label
}

const (
	nextOf = -1
	slotOf = -2 // the address is what a set stores
)

// Begin begins the first segment. conn is the process's descriptor of the socket to the
// runtime.
func Begin(conn int) *Builder {
	b := newBuilder(First.code(), First.data())
	b.addReporting(conn)
	return b
}

// New begins a further segment.
func New(s Segment) *Builder {
	b := newBuilder(s.code(), s.data())
	b.whereAt = b.text("")
	return b
}

func newBuilder(code, data uint32) *Builder {
	return &Builder{codeAt: code, dataAt: data, rescue: Next, strings: map[string]Ref{}, texts: map[string]Ref{}}
}

// In names what is at work in the texts of errors until f returns: "mounts[3] (/proc)".
func (b *Builder) In(where string, f func()) {
	before, at := b.where, b.whereAt
	b.where += where + ": "
	b.whereAt = b.counted(b.where)
	f()
	b.where, b.whereAt = before, at
}

// Rescue returns where uncaught errors lead now, or Next.
func (b *Builder) Rescue() Label { return b.rescue }

// Try has uncaught errors of what f adds lead to the label instead of ending the
// program.
func (b *Builder) Try(otherwise Label, f func()) {
	before := b.rescue
	b.rescue = otherwise
	f()
	b.rescue = before
}

// NewLabel returns a label that is not set yet.
func (b *Builder) NewLabel() Label {
	b.labels = append(b.labels, unset)
	return Label(len(b.labels) - 1)
}

// Here sets a label to the next instruction.
func (b *Builder) Here(l Label) { b.labels[l] = len(b.code) }

// Call is a call that has been added, to be told more about.
type Call struct {
	b  *Builder
	at int
}

// Call adds a system call. text names it in the error of an errno that is not caught.
func (b *Builder) Call(text string, number uintptr, args ...Arg) Call {
	i := instruction{op: opCall, number: uint16(number), code: 1}
	for n, a := range args {
		i.args[n] = a.value
		if a.load {
			i.load |= 1 << n
		}
	}
	c := Call{b, b.add(i, text)}
	if b.rescue != Next {
		// The last one, so that what the caller catches comes first.
		b.catch(c.at, catches-1, AnyError, b.rescue)
	}
	return c
}

// Code sets the exit status that goes with an error; it is 1 otherwise.
func (c Call) Code(code int) Call {
	c.b.code[c.at].code = uint8(code)
	return c
}

// Store keeps the result, or the negative errno, in a slot.
func (c Call) Store(s Slot) Call {
	c.b.code[c.at].store = uint32(s)
	return c
}

// Catch has an errno lead to a label.
func (c Call) Catch(e unix.Errno, l Label) Call {
	for n := range catches {
		if c.b.code[c.at].catch[n].errno == 0 {
			c.b.catch(c.at, n, e, l)
			return c
		}
	}
	panic("program: too many errnos to catch")
}

// Ignore goes on after the errnos, or after any where none is named.
func (c Call) Ignore(errnos ...unix.Errno) Call {
	if len(errnos) == 0 {
		errnos = []unix.Errno{AnyError}
	}
	for _, e := range errnos {
		c.Catch(e, Next)
	}
	return c
}

// Retry repeats the call after an errno, until all retries of the process are used up.
func (c Call) Retry(e unix.Errno) Call {
	c.b.labels = append(c.b.labels, c.at)
	return c.Catch(e, Label(len(c.b.labels)-1))
}

// Jump goes on at a label after success.
func (c Call) Jump(l Label) Call {
	c.b.jumps = append(c.b.jumps, jump{c.at, nextOf, l})
	return c
}

// Test adds a comparison: if the word of 32 bits at address, masked, is not the value,
// the program goes on at the label.
func (b *Builder) Test(address Ref, mask, value uint32, unequal Label) {
	b.catch(b.test(address, mask, value, ""), 0, AnyError, unequal)
}

// Check is Test with an error instead of a place to go on.
func (b *Builder) Check(address Ref, mask, value uint32, text string) {
	if b.rescue != Next {
		b.Test(address, mask, value, b.rescue)
		return
	}
	b.test(address, mask, value, text)
}

func (b *Builder) test(address Ref, mask, value uint32, text string) int {
	return b.add(instruction{op: opTest, args: [6]int32{int32(address), int32(mask), int32(value)}, code: 1}, text)
}

// allBits is the mask that leaves a word as it is.
const allBits = ^uint32(0)

// TestSlot is Test of a slot.
func (b *Builder) TestSlot(s Slot, value int32, unequal Label) {
	b.Test(Ref(s), allBits, uint32(value), unequal)
}

// testSame goes on at the label unless two slots are equal.
func (b *Builder) testSame(s, other Slot, unequal Label) {
	at := b.test(Ref(s), allBits, uint32(other), "")
	b.code[at].load = 1 << 2
	b.catch(at, 0, AnyError, unequal)
}

// Set stores a number in a slot.
func (b *Builder) Set(s Slot, value int32) {
	b.add(instruction{op: opSet, args: [6]int32{int32(s), value}}, "")
}

// Jump goes on at a label.
func (b *Builder) Jump(l Label) {
	b.jumps = append(b.jumps, jump{b.add(instruction{op: opSet, args: [6]int32{int32(scratch)}}, ""), nextOf, l})
}

// Enter goes on at a label, where a subroutine begins; Return(back) leads to what follows.
func (b *Builder) Enter(l Label, back Slot) {
	after := b.NewLabel()
	at := b.add(instruction{op: opSet, args: [6]int32{int32(back)}}, "")
	b.jumps = append(b.jumps, jump{at, slotOf, after}, jump{at, nextOf, l})
	b.Here(after)
}

// Return ends a subroutine.
func (b *Builder) Return(back Slot) {
	b.add(instruction{op: opJump, args: [6]int32{int32(back)}, load: 1}, "")
}

// leap goes on in a segment.
func (b *Builder) leap(s Segment) {
	b.add(instruction{op: opJump, args: [6]int32{int32(s.code())}}, "")
}

// Fail ends the program, or leads to where Try says, with an error of a text and an
// exit status.
func (b *Builder) Fail(code int, text string) {
	if b.rescue != Next {
		b.Jump(b.rescue)
		return
	}
	b.add(instruction{op: opFail, code: uint8(code)}, text)
}

func (b *Builder) add(i instruction, text string) int {
	i.where, i.text = uint32(b.whereAt), uint32(b.text(text))
	b.code = append(b.code, i)
	return len(b.code) - 1
}

// text adds what is reported with an error, once.
func (b *Builder) text(s string) Ref {
	if r, ok := b.texts[s]; ok {
		return r
	}
	r := b.counted(s)
	b.texts[s] = r
	return r
}

// counted adds a string with its length before it.
func (b *Builder) counted(s string) Ref {
	b.data = binary.NativeEndian.AppendUint32(b.data, uint32(len(s)))
	r := Ref(b.dataAt + uint32(len(b.data)))
	b.data = append(b.data, s...)
	return r
}

func (b *Builder) catch(at, n int, e unix.Errno, l Label) {
	b.code[at].catch[n].errno = uint16(e)
	b.jumps = append(b.jumps, jump{at, n, l})
}

// Bytes adds data and returns its address, which is a multiple of eight.
func (b *Builder) Bytes(data []byte) Ref {
	for len(b.data)%8 != 0 {
		b.data = append(b.data, 0)
	}
	r := Ref(b.dataAt + uint32(len(b.data)))
	b.data = append(b.data, data...)
	return r
}

// Space adds bytes that are zero.
func (b *Builder) Space(size int) Ref { return b.Bytes(make([]byte, size)) }

// Slot adds a slot that holds a number at first.
func (b *Builder) Slot(value int32) Slot {
	return Slot(b.Bytes(binary.NativeEndian.AppendUint32(nil, uint32(value))))
}

// String adds a C string, once. A string with a NUL in it ends there.
func (b *Builder) String(s string) Ref {
	if r, ok := b.strings[s]; ok {
		return r
	}
	r := Ref(b.dataAt + uint32(len(b.data)))
	b.data = append(append(b.data, s...), 0)
	b.strings[s] = r
	return r
}

// Strings adds an array of C strings that ends with a null pointer.
func (b *Builder) Strings(list []string) Ref {
	var array []byte
	for _, s := range list {
		array = binary.NativeEndian.AppendUint64(array, uint64(b.dataAt)+uint64(len(b.data)))
		b.data = append(append(b.data, s...), 0)
	}
	return b.Bytes(binary.NativeEndian.AppendUint64(array, 0))
}

// Encode returns the segment as the machine loads it: a header, instructions, data.
func (b *Builder) Encode() ([]byte, error) {
	b.link()
	size := len(b.data)
	if len(b.code) > maxInstructions || size > maxData {
		return nil, fmt.Errorf("what the container's process has to do takes %d instructions and %d bytes of data, more than fit; give it fewer mounts or shorter arguments", len(b.code), size)
	}
	out := make([]byte, 0, headerSize+len(b.code)*instructionSize+size)
	out = binary.NativeEndian.AppendUint32(out, uint32(len(b.code)*instructionSize))
	out = binary.NativeEndian.AppendUint32(out, uint32(size))
	out = append(out, codeBytes(b.code)...)
	return append(out, b.data...), nil
}

// headerSize is that of the lengths before instructions and data.
const headerSize = 8

// link fills in distances. What would run past the end is a mistake.
func (b *Builder) link() {
	for i := range b.code {
		b.code[i].next = 1
	}
	for _, j := range b.jumps {
		to := j.at + 1
		if j.label != Next {
			to = b.labels[j.label]
		}
		if to < 0 || to >= len(b.code) {
			panic("program: a jump to nowhere")
		}
		switch distance := int16(to - j.at); j.catch {
		case nextOf:
			b.code[j.at].next = distance
		case slotOf:
			b.code[j.at].args[1] = int32(b.codeAt + uint32(to)*instructionSize)
		default:
			b.code[j.at].catch[j.catch].target = distance
		}
	}
	if last := &b.code[len(b.code)-1]; last.next == 1 && !last.isLast() {
		panic("program: runs past its end")
	}
}

// isLast reports whether the machine never goes on with the instruction after this one.
func (i *instruction) isLast() bool {
	return i.op == opFail || i.op == opJump ||
		i.op == opCall && (i.number == unix.SYS_EXIT_GROUP || i.number == unix.SYS_EXECVE || i.number == unix.SYS_EXECVEAT)
}
