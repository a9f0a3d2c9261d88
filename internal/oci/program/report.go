package program

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Kind is what a message of the machine says.
type Kind uint32

// The kinds of messages.
const (
	Failed   Kind = 1 + iota // the program has ended with an error
	Passed                   // the process has left its work to one that it has cloned, whose pid is the code, and ends
	Born                     // likewise, and the one that it has cloned is the child that was wanted
	Warning                  // something could not be had, harmlessly
	Prepared                 // the runtime's hooks are to be run; a byte lets the process go on
	Help                     // a helper inside the container waits for its job, and will say Done
	Done
	Terminal  // carries the master side of the terminal
	Placed    // the process is in its root and waits to be told what to execute
	Ready     // only the start is left
	Listening // only the filter is left, whose listener is wanted; a byte lets the process go on
)

// Header begins every message: what it says, an exit status, an errno or 0, and the
// length of the text that follows. After the text of a failure comes what the kernel
// had to say about a filesystem, LogSize bytes.
type Header struct {
	Kind   Kind
	Code   uint32
	Errno  unix.Errno
	Length uint32
}

// HeaderSize and LogSize are in bytes.
const (
	HeaderSize = 16
	LogSize    = 512
)

// ParseHeader reads a header.
func ParseHeader(b [HeaderSize]byte) Header {
	word := func(i int) uint32 { return binary.NativeEndian.Uint32(b[4*i:]) }
	return Header{Kind(word(0)), word(1), unix.Errno(word(2)), word(3)}
}

// Offsets in the block at blockBase, which the machine knows too.
const (
	blockConn    = 0 // the socket to whoever listens
	blockContext = 4 // a filesystem context whose log is worth reading, or -1
	blockScratch = 8
	blockRetries = 12 // what is left of retries
	blockReport  = 16 // Header of a failure
	blockVectors = 32 // header, where, text, log
	blockMessage = 96 // msghdr
	blockHandler = 152
	blockLog     = 160
	blockSize    = blockLog + LogSize
)

// maxRetries bounds how often calls are repeated that the kernel asks to repeat: whoever
// makes it do so for ever gets an error.
const maxRetries = 1024

// conn and context are slots of the block.
const (
	conn    Slot = blockBase + blockConn
	context Slot = blockBase + blockContext
)

// Conn is the descriptor of whoever listens: the runtime, later who starts the container.
func (b *Builder) Conn() Slot { return conn }

// Context is where a program keeps the filesystem context that it is at work on, or -1.
func (b *Builder) Context() Slot { return context }

// addReporting begins the first segment: the block, and the calls that report an error.
func (b *Builder) addReporting(fd int) {
	b.data = append(b.data, make([]byte, blockSize)...)
	b.whereAt = b.text("")
	word := func(offset int, value uint32) { binary.NativeEndian.PutUint32(b.data[offset:], value) }
	long := func(offset int, value uint64) { binary.NativeEndian.PutUint64(b.data[offset:], value) }
	word(blockConn, uint32(fd))
	word(blockContext, ^uint32(0))
	word(blockRetries, maxRetries)
	word(blockReport, uint32(Failed))
	long(blockVectors, blockBase+blockReport)
	long(blockVectors+8, HeaderSize)
	// The next two are the text: the machine fills them in.
	long(blockVectors+48, blockBase+blockLog)
	long(blockVectors+56, LogSize)
	long(blockMessage+16, blockBase+blockVectors)
	long(blockMessage+24, 4)

	begin := b.NewLabel()
	b.Jump(begin)
	word(blockHandler, b.codeAt+uint32(len(b.code))*instructionSize)
	b.Call("", unix.SYS_READ, context.Value(), Ref(blockBase+blockLog).Arg(), N(LogSize-1)).Ignore()
	b.Call("", unix.SYS_SENDMSG, conn.Value(), Ref(blockBase+blockMessage).Arg(), N(unix.MSG_NOSIGNAL)).Ignore()
	b.Call("", unix.SYS_EXIT_GROUP, Slot(blockBase+blockReport+4).Value())
	b.Here(begin)
}

// Message makes a message.
func Message(k Kind, code int, text string) []byte {
	var m []byte
	for _, v := range [...]uint32{uint32(k), uint32(code), 0, uint32(len(text))} {
		m = binary.NativeEndian.AppendUint32(m, v)
	}
	m = append(m, text...)
	if k == Failed {
		m = append(m, make([]byte, LogSize)...)
	}
	return m
}

// Say sends a message to whoever listens. That he has gone is no error.
func (b *Builder) Say(k Kind, text string) {
	m := Message(k, 1, text)
	b.Call("", unix.SYS_SENDTO, conn.Value(), b.Bytes(m).Arg(), N(len(m)), N(unix.MSG_NOSIGNAL), N(0), N(0)).Ignore()
}

// Report is a message whose code is known only when it is sent.
type Report struct {
	Code Slot
	at   Ref
}

// Report makes a message to be sent by SayReport.
func (b *Builder) Report(k Kind) Report {
	at := b.Bytes(Message(k, 0, ""))
	return Report{Slot(at.At(4)), at}
}

// SayReport sends a Report.
func (b *Builder) SayReport(r Report) {
	b.Call("", unix.SYS_SENDTO, conn.Value(), r.at.Arg(), N(HeaderSize), N(unix.MSG_NOSIGNAL), N(0), N(0)).Ignore()
}

// SayWith sends a message with descriptors, which the slots of rights hold by then.
func (b *Builder) SayWith(k Kind, r Rights) {
	b.Call("sendmsg", unix.SYS_SENDMSG, conn.Value(), b.message(b.Bytes(Message(k, 0, "")), HeaderSize, r).Arg(), N(unix.MSG_NOSIGNAL))
}

// MaxFiles is SCM_MAX_FD of the kernel, the most descriptors of one message.
const MaxFiles = 253

// Rights are descriptors that travel in one message.
type Rights struct {
	Files []Slot
	Ref
}

// Rights makes room for n descriptors.
func (b *Builder) Rights(n int) Rights {
	control := make([]byte, unix.CmsgSpace(4*n))
	binary.NativeEndian.PutUint64(control, uint64(unix.CmsgLen(4*n)))
	binary.NativeEndian.PutUint32(control[8:], unix.SOL_SOCKET)
	binary.NativeEndian.PutUint32(control[12:], unix.SCM_RIGHTS)
	r := Rights{Ref: b.Bytes(control)}
	for i := range n {
		r.Files = append(r.Files, Slot(r.At(uintptr(unix.CmsgLen(4*i)))))
	}
	return r
}

// message makes a msghdr of one part and of descriptors.
func (b *Builder) message(part Ref, length int, r Rights) Ref {
	vector := binary.NativeEndian.AppendUint64(nil, uint64(part))
	vector = binary.NativeEndian.AppendUint64(vector, uint64(length))
	header := make([]byte, 56) // struct msghdr
	binary.NativeEndian.PutUint64(header[16:], uint64(b.Bytes(vector)))
	binary.NativeEndian.PutUint64(header[24:], 1)
	binary.NativeEndian.PutUint64(header[32:], uint64(r.Ref))
	binary.NativeEndian.PutUint64(header[40:], uint64(unix.CmsgSpace(4*len(r.Files))))
	return b.Bytes(header)
}

// Receive takes n descriptors that SendFiles sends, closed on exec, and returns their
// slots.
func (b *Builder) Receive(n int) []Slot {
	var files []Slot
	for n > 0 {
		r := b.Rights(min(n, MaxFiles))
		got := b.Slot(0)
		b.Call("recvmsg", unix.SYS_RECVMSG, conn.Value(), b.message(b.Space(1), 1, r).Arg(), N(unix.MSG_CMSG_CLOEXEC)).Store(got)
		b.Check(Ref(got), allBits, 1, "the runtime has gone")
		b.Check(r.Ref, allBits, uint32(unix.CmsgLen(4*len(r.Files))), "descriptors were lost on the way: the limit of open files is too low")
		files = append(files, r.Files...)
		n -= len(r.Files)
	}
	return files
}

// Await waits for a byte of whoever listens, and leads to the label if he has gone.
func (b *Builder) Await(gone Label) {
	got := b.Slot(0)
	b.Call("", unix.SYS_RECVFROM, conn.Value(), b.Space(1).Arg(), N(1), N(0), N(0), N(0)).Store(got).Ignore()
	b.TestSlot(got, 1, gone)
}
