#include "textflag.h"
#include "go_asm.h"

// The mark ends what is copied.
#define MARK \
	LONG $0x0b0f0b0f \
	LONG $0x74726562 \
	LONG $0x646e6568

// LOAD replaces an argument by the int32 at its address.
#define LOAD(bit, register) \
	TESTL $(1<<bit), R13 \
	JEQ 2(PC) \
	MOVLQSX (register), register

// machine carries out a program. Nothing here is called: it is copied into the machine's
// file (elf.go).
//
// R12 is the address of the instruction.
TEXT machine<>(SB),NOSPLIT|NOFRAME,$0
	MOVQ $(const_codeBase+const_bootOffset), R12

step:
	MOVBLZX instruction_op(R12), AX
	MOVBLZX instruction_load(R12), R13
	MOVLQSX (instruction_args+0)(R12), DI
	MOVLQSX (instruction_args+4)(R12), SI
	MOVLQSX (instruction_args+8)(R12), DX
	LOAD(0, DI)
	LOAD(2, DX)
	CMPL    AX, $const_opCall
	JNE     other

	MOVLQSX (instruction_args+12)(R12), R10
	MOVLQSX (instruction_args+16)(R12), R8
	MOVLQSX (instruction_args+20)(R12), R9
	LOAD(1, SI)
	LOAD(3, R10)
	LOAD(4, R8)
	LOAD(5, R9)
	MOVWLZX instruction_number(R12), AX
	SYSCALL
	MOVL    instruction_store(R12), CX
	TESTL   CX, CX
	JEQ     stored
	MOVL    AX, (CX)

stored:
	CMPQ AX, $-4095
	JCC  failed

next:
	MOVWQSX instruction_next(R12), CX

	// CX is the distance.
go:
	SHLQ $const_instructionShift, CX
	ADDQ CX, R12
	JMP  step

failed:
	NEGL AX
	LEAQ instruction_catch(R12), BX
	MOVL $const_catches, DX

catch:
	MOVWLZX (BX), CX
	CMPL    AX, CX
	JEQ     caught
	CMPL    CX, $const_AnyError
	JEQ     caught
	ADDQ    $4, BX
	DECL    DX
	JNE     catch
	JMP     report

caught:
	MOVWQSX 2(BX), CX
	TESTL   CX, CX
	JNE     go
	MOVL    $const_blockBase, BX // the same once more
	DECL    const_blockRetries(BX)
	JGE     go

	// AX is the errno.
report:
	MOVL    $const_blockBase, BX
	MOVL    AX, (const_blockReport+8)(BX)
	MOVBLZX instruction_code(R12), AX
	MOVL    AX, (const_blockReport+4)(BX)
	MOVL    instruction_where(R12), AX
	MOVL    -4(AX), CX
	MOVQ    AX, (const_blockVectors+16)(BX)
	MOVQ    CX, (const_blockVectors+24)(BX)
	MOVL    instruction_text(R12), AX
	MOVL    -4(AX), DX
	MOVQ    AX, (const_blockVectors+32)(BX)
	MOVQ    DX, (const_blockVectors+40)(BX)
	ADDL    DX, CX
	MOVL    CX, (const_blockReport+12)(BX)
	MOVL    const_blockHandler(BX), R12
	JMP     step

other:
	CMPL AX, $const_opTest
	JEQ  test
	CMPL AX, $const_opSet
	JEQ  set
	CMPL AX, $const_opJump
	JEQ  jump
	XORL AX, AX
	JMP  report

set:
	MOVL SI, (DI)
	JMP  next

jump:
	MOVQ DI, R12
	JMP  step

test:
	ANDL (DI), SI
	CMPL SI, DX
	JEQ  next
	XORL    AX, AX
	MOVWQSX (instruction_catch+2)(R12), CX
	TESTL   CX, CX
	JEQ     report
	JMP     go
	MARK

// handle is the signal handler.
TEXT handle<>(SB),NOSPLIT|NOFRAME,$0
	ADDL $128, DI
	MOVL $const_sysExitGroup, AX
	SYSCALL
	INT  $3
	MARK

// func machineAddress() unsafe.Pointer
TEXT ·machineAddress(SB),NOSPLIT,$0-8
	LEAQ machine<>(SB), AX
	MOVQ AX, ret+0(FP)
	RET

// func handleAddress() unsafe.Pointer
TEXT ·handleAddress(SB),NOSPLIT,$0-8
	LEAQ handle<>(SB), AX
	MOVQ AX, ret+0(FP)
	RET
