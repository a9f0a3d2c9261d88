package program

import (
	"bytes"
	"unsafe"
)

// codeBytes returns instructions as the machine reads them.
func codeBytes(code []instruction) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(code))), len(code)*instructionSize)
}

// An instruction has the size that the machine expects.
var _ = [1]struct{}{}[unsafe.Sizeof(instruction{})-instructionSize]

// machineAddress and handleAddress return where the machine and its signal handler
// begin: see machine_GOARCH.s.
func machineAddress() unsafe.Pointer
func handleAddress() unsafe.Pointer

// machineCode and handlerCode return the code without the mark at its end, or nil if
// there is none.
func machineCode() []byte { return upToMark(machineAddress()) }
func handlerCode() []byte { return upToMark(handleAddress()) }

func upToMark(code unsafe.Pointer) []byte {
	const most = 0x400
	before, _, found := bytes.Cut(unsafe.Slice((*byte)(code), most), []byte("\x0f\x0b\x0f\x0bberthend"))
	if !found {
		return nil
	}
	return before
}
