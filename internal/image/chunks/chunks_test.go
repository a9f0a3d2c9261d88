package chunks_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcloud/berth/internal/image/chunks"
	"github.com/berthcloud/berth/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// part is what a disk has at an offset.
type part struct {
	at   int64
	data []byte
}

// noise returns bytes that are never the same for two seeds.
func noise(seed byte, size int) []byte {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// disk makes a sparse file.
func disk(t testing.TB, size int64, parts ...part) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		if _, err := f.WriteAt(p.data, p.at); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// cut cuts a disk, puts it together again, and returns its chunks by their sums.
func cut(t testing.TB, f *os.File, size int64) map[chunks.Sum]int64 {
	t.Helper()
	back, all, end := disk(t, size), map[chunks.Sum]int64{}, int64(0)
	err := chunks.Cut(f, size, func() {}, func(offset int64, data []byte) error {
		if len(data) == 0 || offset < end || offset+int64(len(data)) > size {
			t.Errorf("a chunk of %d bytes at %d, after one that ends at %d", len(data), offset, end)
		}
		end = offset + int64(len(data))
		all[sha256.Sum256(data)] = int64(len(data))
		return chunks.Put(back, offset, data)
	})
	if err != nil {
		t.Fatal(err)
	}
	if want, got := content(t, f), content(t, back); !bytes.Equal(want, got) {
		t.Error("what the chunks make is another disk")
	}
	if has, had := allocated(t, back), allocated(t, f); has > had+512<<10 { // in blocks of 64 KiB
		t.Errorf("the disk has %d bytes and had %d: its holes are gone", has, had)
	}
	return all
}

func content(t testing.TB, f *os.File) []byte {
	t.Helper()
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func allocated(t testing.TB, f *os.File) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// TestCut cuts disks of several shapes.
func TestCut(t *testing.T) {
	testenv.Check(t)
	for name, c := range map[string]struct {
		size  int64
		parts []part
	}{
		"empty":         {size: 64 << 20},
		"a sector":      {size: 512, parts: []part{{0, noise(1, 512)}}},
		"its last byte": {size: 5<<20 + 512, parts: []part{{5<<20 + 511, []byte{1}}}},
		"full":          {size: 8 << 20, parts: []part{{0, noise(2, 8<<20)}}},
		"holes":         {size: 64 << 20, parts: []part{{512, noise(3, 100)}, {1 << 20, noise(4, 3<<20)}, {40<<20 - 7, noise(5, 100_000)}, {64<<20 - 512, noise(6, 512)}}},
		"zeros":         {size: 24 << 20, parts: []part{{0, make([]byte, 24<<20)}, {10 << 20, noise(7, 10)}}},
	} {
		t.Run(name, func(t *testing.T) {
			all, data := cut(t, disk(t, c.size, c.parts...), c.size), int64(0)
			for _, n := range all {
				data += n
			}
			if name == "empty" && data != 0 || name == "zeros" && data > 64<<10 || name == "holes" && data > 6<<20 {
				t.Errorf("%d bytes of chunks", data)
			}
		})
	}
}

// TestChangeStaysSmall: what is changed on a disk, inserted or moved gives few new chunks.
func TestChangeStaysSmall(t *testing.T) {
	testenv.Check(t)
	const size = 96 << 20
	old := noise(1, 64<<20)
	before := cut(t, disk(t, size, part{0, old}), size)
	inserted := append(append(bytes.Clone(old[:20<<20]), noise(2, 12345)...), old[20<<20:]...)
	for name, c := range map[string]struct {
		parts []part
		most  int64 // bytes of new chunks
	}{
		"changed":  {[]part{{0, old}, {30 << 20, noise(3, 1000)}}, 8 << 20},
		"inserted": {[]part{{0, inserted}}, 8 << 20},
		"moved":    {[]part{{16<<20 + 512, old}}, 4 << 20},
		"twice":    {[]part{{0, old}, {70 << 20, old[:10<<20]}}, 4 << 20},
	} {
		fresh := int64(0)
		for sum, n := range cut(t, disk(t, size, c.parts...), size) {
			if before[sum] == 0 {
				fresh += n
			}
		}
		if fresh > c.most {
			t.Errorf("%s: %d bytes of new chunks", name, fresh)
		}
	}
}

// TestTooManyPieces: a disk in more pieces than an index has room for is cut anew into
// larger ones; what visit says ends it all.
func TestTooManyPieces(t *testing.T) {
	testenv.Check(t)
	if testing.Short() {
		t.Skip("reads 20,000 blocks")
	}
	const every, count = 2<<20 + 128<<10, chunks.MaxCount + 1
	f := disk(t, every*count)
	for i := range int64(count) {
		if _, err := f.WriteAt([]byte{byte(i), byte(i >> 8), 1}, i*every); err != nil {
			t.Fatal(err)
		}
	}
	begun, found, stop := 0, 0, errors.New("stop")
	err := chunks.Cut(f, every*count, func() { begun++ }, func(_ int64, data []byte) error {
		if found++; begun == 2 && len(data) > 4<<20 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || begun != 2 || found != chunks.MaxCount+1 {
		t.Errorf("%d chunks, at the %d. attempt; %v", found, begun, err)
	}
}

// TestIndex writes an index and reads it, and refuses what no disk has.
func TestIndex(t *testing.T) {
	a, b := chunks.Sum{1}, chunks.Sum{2}
	x := &chunks.Index{Size: 1 << 40, Sum: chunks.Sum{9}, Chunks: []chunks.Chunk{{0, 10, a}, {10, chunks.MaxSize, b}, {1<<40 - 512, 512, a}}}
	back, err := chunks.Parse(x.Encode())
	if d := cmp.Diff(x, back); err != nil || d != "" {
		t.Errorf("%v: %s", err, d)
	}
	if d := x.Distinct(); len(d) != 2 || d[0] != x.Chunks[0] || d[1] != x.Chunks[1] {
		t.Errorf("distinct: %v", d)
	}
	for name, bad := range map[string][]chunks.Chunk{
		"empty":           {{0, 0, a}},
		"too large":       {{0, chunks.MaxSize + 1, a}},
		"overlap":         {{0, 10, a}, {9, 10, b}},
		"out of order":    {{10, 10, a}, {0, 10, b}},
		"beyond the end":  {{1<<40 - 1, 2, a}},
		"negative offset": {{-1, 1, a}},
		"far":             {{1<<63 - 1, 1 << 20, a}},
		"too many":        make([]chunks.Chunk, chunks.MaxCount+1),
	} {
		x.Chunks = bad
		if _, err := chunks.Parse(x.Encode()); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := chunks.Parse((&chunks.Index{Size: -1, Chunks: []chunks.Chunk{{0, 1, a}}}).Encode()); err == nil {
		t.Error("a negative size: taken")
	}
	for _, text := range []string{"", "berthcdc", "another format, of quite some bytes, for which nobody has a reader"} {
		if _, err := chunks.Parse([]byte(text)); err == nil {
			t.Errorf("%q: taken", text)
		}
	}
}

// FuzzIndex: whatever an index says, its chunks lie on the disk, in order and apart.
func FuzzIndex(f *testing.F) {
	f.Add((&chunks.Index{Size: 1 << 20, Chunks: []chunks.Chunk{{0, 10, chunks.Sum{1}}, {512, 10, chunks.Sum{1}}}}).Encode())
	f.Add([]byte("berthcdc"))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := chunks.Parse(b)
		if err != nil {
			return
		}
		if !bytes.Equal(x.Encode(), b) {
			t.Error("it is written in another way than it was read")
		}
		end := int64(0)
		for _, c := range x.Chunks {
			if c.Offset < end || c.Length <= 0 || c.Length > chunks.MaxSize {
				t.Fatalf("%+v after one that ends at %d", c, end)
			}
			end = c.Offset + c.Length
		}
		if end > x.Size || len(x.Distinct()) > len(x.Chunks) {
			t.Fatalf("chunks to %d on a disk of %d bytes", end, x.Size)
		}
	})
}
