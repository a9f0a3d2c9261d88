package seccomp

import (
	"runtime"
	"testing"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestKernel lets the kernel run programs.
func TestKernel(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the largest program is one for amd64")
	}
	type call struct {
		nr   uintptr
		want unix.Errno
	}
	most := largest(t)
	most.DefaultAction = specs.ActAllow // Go's runtime on this thread has to live with it
	for _, c := range []struct {
		name  string
		p     *specs.LinuxSeccomp
		calls []call
	}{
		{"moby's default profile", defaultProfile(t), []call{
			{unix.SYS_GETPPID, 0}, {unix.SYS_BPF, unix.EPERM}, {unix.SYS_CLONE3, unix.ENOSYS}, {999, unix.ENOSYS}, {1<<32 - 1, unix.ENOSYS},
		}},
		{"the largest", most, []call{
			{unix.SYS_GETPPID, unix.Errno(rowOf("getppid") + 1)}, {unix.SYS_BPF, unix.Errno(rowOf("bpf") + 1)}, {unix.SYS_CHROOT, unix.Errno(rowOf("chroot") + 1)},
		}},
	} {
		program, err := Compile(c.p)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // and never unlock: the thread ends with its filter
			install(t, program)
			for _, call := range c.calls {
				const all = 1 << 40 // meets every condition of the largest
				if _, _, errno := unix.RawSyscall6(call.nr, all, all, all, all, all, all); errno != call.want {
					t.Errorf("%s: call %d: %v; want %v", c.name, call.nr, errno, call.want)
				}
			}
		}()
		<-done
	}
}

// BenchmarkKernel measures what a system call costs under moby's default profile:
// without a filter, with one that allows everything, with ours, with libseccomp's as
// runc and crun use it.
func BenchmarkKernel(b *testing.B) {
	p := defaultProfile(b)
	mine, err := Compile(p)
	if err != nil {
		b.Fatal(err)
	}
	anything := []Instruction{{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}}
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
		}{{"none", nil}, {"all", anything}, {"berth", mine}, {"libseccomp", theirs}} {
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
