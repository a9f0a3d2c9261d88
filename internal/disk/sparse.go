package disk

import (
	"bytes"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// hole is the least run of zeros that is worth a hole, in bytes, and its alignment.
const hole = 64 << 10

// CopySparse writes what r has to the beginning of a new file, with holes in the
// place of zeros, and returns how many bytes it has.
func CopySparse(to *os.File, r io.Reader) (size int64, err error) {
	buffer, zeros := make([]byte, hole), make([]byte, hole)
	for {
		n, err := io.ReadFull(r, buffer)
		if n > 0 && !bytes.Equal(buffer[:n], zeros[:n]) {
			if _, err := to.WriteAt(buffer[:n], size); err != nil {
				return size, err
			}
		}
		size += int64(n)
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return size, to.Truncate(size)
		case err != nil:
			return size, err
		}
	}
}

// Clone copies the file at from to a new one at to, hole for hole; where the
// filesystem can, the two share their content until one is written to. On an error
// nothing is left at to.
func Clone(to, from string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	return newFile(to, func(f *os.File) error {
		if unix.IoctlFileClone(int(f.Fd()), int(source.Fd())) == nil {
			return nil
		}
		return CopyFile(f, source)
	})
}

// Dig makes holes of the zeros in the file at path. A filesystem without holes
// keeps them as they are.
func Dig(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	buffer, zeros := make([]byte, hole), make([]byte, hole)
	for at := int64(0); ; at += hole {
		n, err := file.ReadAt(buffer, at)
		if n == hole && bytes.Equal(buffer, zeros) {
			err := unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, hole)
			if errors.Is(err, unix.EOPNOTSUPP) {
				return nil
			}
			if err != nil {
				return os.NewSyscallError("fallocate", err)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
