package seccomp

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// constant returns the verdict that a program has for a call whatever its arguments,
// and false where the kernel would not find one: it gives up at a load of anything
// but number and architecture, and at instructions beyond the few that follow here
// (seccomp_is_const_allow in kernel/seccomp.c).
func constant(program []Instruction, nr, arch uint32) (uint32, bool) {
	var acc uint32
	for pc := 0; pc < len(program); pc++ {
		in, yes := program[pc], false
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			switch in.K {
			case offNumber:
				acc = nr
			case offArch:
				acc = arch
			default:
				return 0, false
			}
			continue
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= in.K
			continue
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(in.K)
			continue
		case unix.BPF_RET | unix.BPF_K:
			return in.K, true
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			yes = acc == in.K
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			yes = acc >= in.K
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			yes = acc > in.K
		default:
			return 0, false
		}
		if yes {
			pc += int(in.JT)
		} else {
			pc += int(in.JF)
		}
	}
	return 0, false
}

// TestAllowedCallsAreConstant expects that the kernel runs no filter for the calls
// that moby's default profile allows whatever their arguments.
func TestAllowedCallsAreConstant(t *testing.T) {
	p := defaultProfile(t)
	for _, name := range []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchAARCH64, specs.ArchRISCV64} {
		program, err := compile(p, name)
		if err != nil {
			t.Fatal(err)
		}
		a, found := archOf(name), 0
		meant := meaningOf(p, a)
		for nr, rules := range meant.rules {
			if len(rules[0].conds) > 0 || rules[0].ret != unix.SECCOMP_RET_ALLOW {
				continue
			}
			found++
			if ret, ok := constant(program, nr, a.audit); !ok || ret != unix.SECCOMP_RET_ALLOW {
				t.Errorf("%s call %d: %#x, constant %v", name, nr, ret, ok)
			}
		}
		if found < 200 {
			t.Errorf("%s: %d allowed calls", name, found)
		}
	}
}
