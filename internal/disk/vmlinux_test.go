package disk

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"os/exec"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// fakeKernel is an ELF header whose section table ends the file, and a PVH note.
func fakeKernel(size int) []byte {
	k := make([]byte, size)
	copy(k, "\x7fELF\x02\x01\x01")
	binary.LittleEndian.PutUint16(k[16:], 2)
	binary.LittleEndian.PutUint16(k[18:], 62)
	binary.LittleEndian.PutUint32(k[20:], 1)
	binary.LittleEndian.PutUint64(k[32:], 64) // program headers
	binary.LittleEndian.PutUint64(k[40:], uint64(size-64))
	binary.LittleEndian.PutUint16(k[52:], 64)
	binary.LittleEndian.PutUint16(k[54:], 56)
	binary.LittleEndian.PutUint16(k[56:], 1)
	binary.LittleEndian.PutUint16(k[58:], 64)
	binary.LittleEndian.PutUint16(k[60:], 1)
	p := k[64:]
	binary.LittleEndian.PutUint32(p, 4) // PT_NOTE
	binary.LittleEndian.PutUint64(p[8:], 128)
	binary.LittleEndian.PutUint64(p[32:], 24)
	binary.LittleEndian.PutUint64(p[40:], 24)
	n := k[128:]
	binary.LittleEndian.PutUint32(n, 4)
	binary.LittleEndian.PutUint32(n[4:], 8)
	binary.LittleEndian.PutUint32(n[8:], 18)
	copy(n[12:], "Xen\x00")
	for i := 200; i < size-64; i++ {
		k[i] = byte(i / 7)
	}
	return k
}

// bzImage wraps a compressed payload as a kernel build does.
func bzImage(payload []byte) []byte {
	b := make([]byte, 2*512+16)
	b[setupSects] = 1
	copy(b[headerMagic:], "HdrS")
	binary.LittleEndian.PutUint16(b[bootVersion:], 0x20f)
	binary.LittleEndian.PutUint32(b[payloadOffset:], 16)
	binary.LittleEndian.PutUint32(b[payloadLength:], uint32(len(payload)))
	return append(b, payload...)
}

// lz4Literals is the simplest legal frame: literals only.
func lz4Literals(data []byte) []byte {
	block := []byte{0xf0}
	n := len(data) - 15
	for ; n >= 255; n -= 255 {
		block = append(block, 255)
	}
	block = append(append(block, byte(n)), data...)
	frame := binary.LittleEndian.AppendUint32([]byte{0x02, 0x21, 0x4c, 0x18}, uint32(len(block)))
	return append(frame, block...)
}

func gzipped(data []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(data)
	w.Close()
	return b.Bytes()
}

func zstandard(data []byte) []byte {
	w, _ := zstd.NewWriter(nil)
	return w.EncodeAll(data, nil)
}

// xzX86 packs as the kernel build does.
func xzX86(t testing.TB, data []byte) []byte {
	t.Helper()
	cmd := exec.Command("xz", "--check=crc32", "--x86", "--lzma2=dict=32MiB")
	cmd.Stdin = bytes.NewReader(data)
	packed, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

// TestUnfilterX86 gives data in which opcodes stand as close as can be, and
// whose operands often look like targets; the stream's own check judges.
func TestUnfilterX86(t *testing.T) {
	code := make([]byte, 1<<20)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range code {
		code[i] = []byte{0xe8, 0xe9, 0x00, 0xff, 0x90, byte(random.Uint32())}[random.IntN(6)]
	}
	packed := xzX86(t, code)
	z, err := newXZX86(io.NewSectionReader(bytes.NewReader(packed), 0, int64(len(packed))))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(z); err != nil || !bytes.Equal(got, code) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	packed[len(packed)/2] ^= 1
	if _, err := newXZX86(io.NewSectionReader(bytes.NewReader(packed), 0, int64(len(packed)))); err == nil {
		t.Error("a damaged stream was read")
	}
}

func TestExtractVmlinux(t *testing.T) {
	kernel := fakeKernel(20000)
	withRelocs := append(bytes.Clone(kernel), "relocations"...)
	sizeTail := []byte{1, 2, 3, 4} // what the kernel build appends
	for name, payload := range map[string][]byte{
		"none": withRelocs,
		"gzip": append(gzipped(withRelocs), sizeTail...),
		"zstd": append(zstandard(withRelocs), sizeTail...),
		"lz4":  append(lz4Literals(withRelocs), sizeTail...),
		"xz":   append(xzX86(t, withRelocs), sizeTail...),
	} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			if err := ExtractVmlinux(&got, bytes.NewReader(bzImage(payload))); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), kernel) {
				t.Fatalf("got %d bytes, want the %d of the kernel", got.Len(), len(kernel))
			}
			if !HasPVH(bytes.NewReader(got.Bytes())) {
				t.Error("the PVH note was not found")
			}
		})
	}
}

func TestExtractVmlinuxRefuses(t *testing.T) {
	good := bzImage(lz4Literals(fakeKernel(20000)))
	for name, image := range map[string][]byte{
		"empty":     nil,
		"no header": make([]byte, 4096),
		"cut":       good[:len(good)/2],
		"xz":        bzImage([]byte("\xfd7zXZ\x00 and more")),
		"unknown":   bzImage([]byte("what is this")),
		"no ELF":    bzImage(gzipped(make([]byte, 4096))),
	} {
		if err := ExtractVmlinux(io.Discard, bytes.NewReader(image)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestCheckImage(t *testing.T) {
	image := make([]byte, 64)
	copy(image[56:], "ARMd")
	if err := CheckImage(bytes.NewReader(image)); err != nil {
		t.Error(err)
	}
	for name, bad := range map[string][]byte{"cut": image[:58], "other": make([]byte, 64), "empty": nil} {
		if err := CheckImage(bytes.NewReader(bad)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestLZ4Match(t *testing.T) {
	// "ab", then 10 bytes from 2 back, then "z": overlapping match.
	got, err := appendLZ4(make([]byte, 0, 64), []byte{0x26, 'a', 'b', 2, 0, 0x10, 'z'})
	if err != nil || string(got) != "abababababab"+"z" {
		t.Fatalf("got %q, %v", got, err)
	}
}

func FuzzExtractVmlinux(f *testing.F) {
	kernel := fakeKernel(400)
	f.Add(bzImage(kernel))
	f.Add(bzImage(lz4Literals(kernel)))
	f.Add(bzImage(gzipped(kernel)))
	f.Add(bzImage(xzX86(f, kernel)))
	f.Fuzz(func(t *testing.T, image []byte) {
		var out bytes.Buffer
		if ExtractVmlinux(&out, bytes.NewReader(image)) == nil {
			HasPVH(bytes.NewReader(out.Bytes()))
		}
	})
}

func FuzzLZ4Block(f *testing.F) {
	f.Add([]byte{0x26, 'a', 'b', 2, 0, 0x10, 'z'})
	f.Fuzz(func(t *testing.T, block []byte) {
		if out, _ := appendLZ4(make([]byte, 0, 1<<16), block); len(out) > 1<<16 {
			t.Fatal("wrote beyond its bound")
		}
	})
}
