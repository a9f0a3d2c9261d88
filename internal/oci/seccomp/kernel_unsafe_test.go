package seccomp

import (
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// BenchmarkKernel measures what a system call costs under moby's default profile:
// without a filter, with ours, with libseccomp's as runc and crun use it.
func BenchmarkKernel(b *testing.B) {
	p := defaultProfile(b)
	mine, err := Compile(p)
	if err != nil {
		b.Fatal(err)
	}
	theirs := startLibrary(b).compile(p, p.Architectures) // the native one among them
	for _, call := range []struct {
		name  string
		nr, a uintptr
	}{
		{"allowed", unix.SYS_GETPPID, 0},
		{"allowed with its argument", unix.SYS_PERSONALITY, 0xffffffff},
		{"refused", unix.SYS_BPF, ^uintptr(0)},
		{"newer", 999, 0},
	} {
		for _, filter := range []struct {
			name    string
			program []Instruction
		}{{"none", nil}, {"berth", mine}, {"libseccomp", theirs}} {
			b.Run(call.name+"/"+filter.name, func(b *testing.B) {
				done := make(chan struct{})
				go func() {
					defer close(done)
					runtime.LockOSThread() // and never unlock: the thread ends with its filter
					install(b, filter.program)
					for b.Loop() {
						_, _, _ = unix.RawSyscall(call.nr, call.a, 0, 0)
					}
				}()
				<-done
			})
		}
	}
}

// install gives this thread a filter.
func install(t testing.TB, program []Instruction) {
	if len(program) == 0 {
		return
	}
	raw := Encode(program)
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: (*unix.SockFilter)(unsafe.Pointer(&raw[0]))}
	err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))); err != nil || errno != 0 {
		t.Errorf("the kernel refuses the filter: %v, %v", err, errno)
	}
}
