package program

import (
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// runs carries out a program in a process of its own, whose descriptor 3 is the socket, and returns
// what it said and how it ended.
func runs(t *testing.T, segments ...*Builder) (string, int) {
	t.Helper()
	fd, err := Executable(3)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer ours.Close()
	cmd := exec.Command("/proc/self/fd/" + strconv.Itoa(fd))
	cmd.ExtraFiles = []*os.File{theirs}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	for _, b := range segments {
		bytes, err := b.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ours.Write(bytes); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Shutdown(pair[0], unix.SHUT_WR); err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(ours)
	if err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	return string(said), cmd.ProcessState.ExitCode()
}

func exit(b *Builder, code int) { b.Call("exit_group", unix.SYS_EXIT_GROUP, N(code)) }

func TestCall(t *testing.T) {
	t.Parallel()
	b := Begin(3)
	text := "hello"
	b.Call("write", unix.SYS_WRITE, N(3), b.String(text).Arg(), N(len(text)))
	exit(b, 7)
	if said, code := runs(t, b); said != text || code != 7 {
		t.Errorf("%q, %d", said, code)
	}
}

// TestFailure wants the text of the instruction, its errno, and the exit status.
func TestFailure(t *testing.T) {
	t.Parallel()
	b := Begin(3)
	b.In("mounts[3]", func() {
		b.Call("close", unix.SYS_CLOSE, N(99))
	})
	exit(b, 0)
	said, code := runs(t, b)
	if len(said) < HeaderSize {
		t.Fatalf("%q, %d", said, code)
	}
	h := ParseHeader([HeaderSize]byte([]byte(said)))
	if h != (Header{Failed, 1, unix.EBADF, 16}) || said[HeaderSize:][:16] != "mounts[3]: close" || code != 1 || len(said) != HeaderSize+16+LogSize {
		t.Errorf("%+v %q, %d", h, said, code)
	}
}

func TestFlow(t *testing.T) {
	t.Parallel()
	b := Begin(3)
	write := func(s string) { b.Call("write", unix.SYS_WRITE, N(3), b.String(s).Arg(), N(len(s))) }
	// Catching, in order.
	elsewhere, on := b.NewLabel(), b.NewLabel()
	b.Call("close", unix.SYS_CLOSE, N(99)).Catch(unix.EPERM, on).Catch(unix.EBADF, elsewhere)
	write("not here ")
	b.Here(elsewhere)
	write("caught ")
	b.Here(on)
	b.Call("close", unix.SYS_CLOSE, N(99)).Ignore()
	// Slots, by way of a result.
	slot := b.Slot(-1)
	b.Call("dup3", unix.SYS_DUP3, N(3), N(9), N(0)).Store(slot)
	b.Call("write", unix.SYS_WRITE, slot.Value(), b.String("dup ").Arg(), N(4))
	different := b.NewLabel()
	b.TestSlot(slot, 8, different)
	write("not here either ")
	b.Here(different)
	b.Check(Ref(slot), 0xff, 9, "is not 9")
	b.Set(slot, 3)
	b.Check(Ref(slot), 0xffffffff, 3, "is not 3")
	// Try.
	rescue := b.NewLabel()
	b.Try(rescue, func() {
		b.Call("close", unix.SYS_CLOSE, N(99)).Catch(unix.EPERM, Next)
		write("nor here ")
		b.Fail(1, "nor this")
	})
	b.Here(rescue)
	write("rescued ")
	exit(b, 0)
	if said, code := runs(t, b); said != "caught dup rescued " || code != 0 {
		t.Errorf("%q, %d", said, code)
	}
}

func TestRetriesEnd(t *testing.T) {
	t.Parallel()
	b := Begin(3)
	b.Call("it goes on for ever", unix.SYS_CLOSE, N(99)).Retry(unix.EBADF)
	exit(b, 0)
	if said, code := runs(t, b); !strings.Contains(said, "it goes on for ever") || code != 1 {
		t.Errorf("%q, %d", said, code)
	}
}

// TestSegments loads a second segment, which uses what the first has left.
func TestSegments(t *testing.T) {
	t.Parallel()
	first := Begin(3)
	first.Call("dup3", unix.SYS_DUP3, N(3), N(9), N(0))
	first.Load(Second)
	second := New(Second)
	second.Say(Ready, "here")
	second.Call("write", unix.SYS_WRITE, N(9), second.String("there").Arg(), N(5))
	second.Fail(126, "the end")
	said, code := runs(t, first, second)
	if len(said) != HeaderSize+len("here")+len("there")+HeaderSize+len("the end")+LogSize || code != 126 {
		t.Errorf("%q, %d", said, code)
	}
}

// TestTruncated wants an end without a word of what was to be done.
func TestTruncated(t *testing.T) {
	t.Parallel()
	b := Begin(3)
	b.Load(Second)
	if said, code := runs(t, b); said != "" || code != 1 {
		t.Errorf("%q, %d", said, code)
	}
	if said, code := runs(t); said != "" || code != 1 {
		t.Errorf("no segment at all: %q, %d", said, code)
	}
}

func TestExecve(t *testing.T) {
	t.Parallel()
	b := Begin(3)
	b.Call("dup3", unix.SYS_DUP3, N(3), N(1), N(0))
	b.Call("execve", unix.SYS_EXECVE, b.String("/bin/sh").Arg(), b.Strings([]string{"sh", "-c", "echo $A; exit 3"}).Arg(), b.Strings([]string{"A=b"}).Arg())
	if said, code := runs(t, b); said != "b\n" || code != 3 {
		t.Errorf("%q, %d", said, code)
	}
}

// TestSignal ends a process that waits by a signal that it handles.
func TestSignal(t *testing.T) {
	t.Parallel()
	b := Begin(3)
	b.HandleSignals(unix.SIGTERM)
	b.Call("getpid", unix.SYS_GETPID).Store(b.Context())
	b.Call("kill", unix.SYS_KILL, b.Context().Value(), N(int(unix.SIGTERM)))
	exit(b, 0)
	if said, code := runs(t, b); said != "" || code != 128+15 {
		t.Errorf("%q, %d", said, code)
	}
}
