package program

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Load receives a further segment, what Encode returned, and goes on there. A process
// whose runtime goes away meanwhile ends.
func (b *Builder) Load(s Segment) { b.load(conn.Value(), s) }

func (b *Builder) load(from Arg, s Segment) {
	header, got, gone := b.Space(headerSize), b.Slot(0), b.NewLabel()
	b.Try(gone, func() {
		receive := func(to Ref, length Arg) {
			b.Call("", unix.SYS_RECVFROM, from, to.Arg(), length, N(unix.MSG_WAITALL), N(0), N(0)).Store(got)
		}
		receive(header, N(headerSize))
		b.TestSlot(got, headerSize, gone)
		for i, at := range []uint32{s.code(), s.data()} {
			length := Slot(header.At(uintptr(4 * i)))
			b.Call("", unix.SYS_MMAP, N(at), length.Value(), N(unix.PROT_READ|unix.PROT_WRITE),
				N(unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED_NOREPLACE|unix.MAP_POPULATE), N(^uint64(0)), N(0))
		}
		for i, at := range []uint32{s.code(), s.data()} {
			length := Slot(header.At(uintptr(4 * i)))
			receive(Ref(at), length.Value())
			b.testSame(got, length, gone)
		}
		b.leap(s)
	})
	b.Here(gone)
	b.Call("", unix.SYS_EXIT_GROUP, N(1))
}

// HandleSignals has the process exit when it gets one of the signals, until it executes
// another program. The first process of a PID namespace ignores signals that it has no
// handler for (pid_namespaces(7)).
func (b *Builder) HandleSignals(signals ...unix.Signal) {
	// struct sigaction of the kernel: handler, flags, restorer, mask.
	action := make([]byte, 0, 32)
	for _, v := range [...]uint64{uint64(handler), signalRestorer, uint64(handler), 0} {
		action = binary.NativeEndian.AppendUint64(action, v)
	}
	at := b.Bytes(action)
	for _, s := range signals {
		b.Call("rt_sigaction", unix.SYS_RT_SIGACTION, N(int(s)), at.Arg(), N(0), N(8))
	}
}
