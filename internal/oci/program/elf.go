package program

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// The machine's file: ELF header, code, and the program that loads the first segment,
// all in one page that is mapped read-only.
const (
	codeOffset    = 0x100
	handlerOffset = 0x400
	bootOffset    = 0x440
	fileSize      = 0x1000

	// Where the boot program keeps what it receives: one page of its own.
	bootMemory = 0x0f000000
	pageLength = 0x10000 // no architecture has larger pages
)

var errNoEnd = errors.New("the machine's code has no end")

// Executable returns a descriptor of the machine's file, to be executed with the
// runtime's socket as descriptor conn. Nobody can change the file any more.
func Executable(conn int) (int, error) {
	image, err := image(conn)
	if err != nil {
		return -1, err
	}
	return Sealed(func(fd int) error {
		_, err := unix.Write(fd, image)
		return os.NewSyscallError("write", err)
	})
}

// Sealed returns a descriptor of a program in memory that fill has written and that
// nobody can change any more. It fails where a sysctl of the PID namespace forbids that
// (vm.memfd_noexec, since Linux 6.3).
func Sealed(fill func(fd int) error) (int, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("berth-oci", flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3 every such file can be executed
		fd, err = unix.MemfdCreate("berth-oci", flags)
	}
	if errors.Is(err, unix.EACCES) {
		return -1, errors.New("the sysctl vm.memfd_noexec is 2, so that nothing in memory can be executed; set it to 1 or 0")
	}
	if err != nil {
		return -1, os.NewSyscallError("memfd_create", err)
	}
	defer unix.Close(fd)
	if err := fill(fd); err != nil {
		return -1, err
	}
	seals := unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return -1, os.NewSyscallError("F_ADD_SEALS", err)
	}
	// execve refuses what anyone has open for writing: go on with another opening.
	exe, err := unix.Open("/proc/self/fd/"+strconv.Itoa(fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	return exe, os.NewSyscallError("open", err)
}

// image makes the file.
func image(conn int) ([]byte, error) {
	machine, handler := machineCode(), handlerCode()
	boot := bootProgram(conn)
	if machine == nil || handler == nil || codeOffset+len(machine) > handlerOffset || handlerOffset+len(handler) > bootOffset || bootOffset+len(boot) > fileSize {
		return nil, errNoEnd
	}
	file := make([]byte, fileSize)
	copy(file, elfHeader())
	copy(file[codeOffset:], machine)
	copy(file[handlerOffset:], handler)
	copy(file[bootOffset:], boot)
	return file, nil
}

// bootProgram receives the first segment.
func bootProgram(conn int) []byte {
	b := newBuilder(codeBase+bootOffset, bootMemory)
	gone := b.NewLabel()
	b.Try(gone, func() {
		b.Call("", unix.SYS_MMAP, N(bootMemory), N(pageLength), N(unix.PROT_READ|unix.PROT_WRITE),
			N(unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED_NOREPLACE), N(^uint64(0)), N(0))
	})
	b.load(N(conn), First)
	b.Here(gone)
	b.Call("", unix.SYS_EXIT_GROUP, N(1))
	b.link()
	return codeBytes(b.code)
}

// elfHeader says: load the whole file at codeBase, readable and executable, and begin
// at the code. The stack is not executable. (elf(5))
func elfHeader() []byte {
	var b bytes.Buffer
	put := func(v any) { _ = binary.Write(&b, binary.NativeEndian, v) }
	b.WriteString("\x7fELF\x02\x01\x01") // 64 bits, little-endian, version 1
	b.Write(make([]byte, 9))
	put([]uint16{2, elfMachine}) // ET_EXEC
	put(uint32(1))
	put([]uint64{codeBase + codeOffset, 64, 0}) // entry, program headers, no sections
	put(uint32(0))
	put([]uint16{64, 56, 2, 64, 0, 0}) // sizes, two program headers
	put([]uint32{1, 5})                // PT_LOAD, PF_R|PF_X
	put([]uint64{0, codeBase, codeBase, fileSize, fileSize, pageLength})
	put([]uint32{0x6474e551, 6}) // PT_GNU_STACK, PF_R|PF_W
	put([]uint64{0, 0, 0, 0, 0, 16})
	return b.Bytes()
}

// handler is the address of the signal handler, which exits as a shell would report the
// signal.
const handler Ref = codeBase + handlerOffset
