#include "textflag.h"
#include "go_asm.h"

// The mark ends what is copied.
#define MARK \
	WORD $0x0b0f0b0f \
	WORD $0x74726562 \
	WORD $0x646e6568

// LOAD replaces an argument by the int32 at its address.
#define LOAD(bit, register) \
	TBZ  $bit, R20, 2(PC) \
	MOVW (register), register

// machine carries out a program. Nothing here is called: it is copied into the machine's
// file (elf.go).
//
// R19 is the address of the instruction.
TEXT machine<>(SB),NOSPLIT|NOFRAME,$0
	MOVD $(const_codeBase+const_bootOffset), R19

step:
	MOVBU instruction_op(R19), R9
	MOVBU instruction_load(R19), R20
	MOVW  (instruction_args+0)(R19), R0
	MOVW  (instruction_args+4)(R19), R1
	MOVW  (instruction_args+8)(R19), R2
	LOAD(0, R0)
	LOAD(2, R2)
	CMPW  $const_opCall, R9
	BNE   other

	MOVW  (instruction_args+12)(R19), R3
	MOVW  (instruction_args+16)(R19), R4
	MOVW  (instruction_args+20)(R19), R5
	LOAD(1, R1)
	LOAD(3, R3)
	LOAD(4, R4)
	LOAD(5, R5)
	MOVHU instruction_number(R19), R8
	SVC
	MOVWU instruction_store(R19), R9
	CBZ   R9, stored
	MOVW  R0, (R9)

stored:
	CMN $4095, R0
	BHI failed // unsigned: above -4096

next:
	MOVH instruction_next(R19), R9

	// R9 is the distance.
go:
	ADD R9<<const_instructionShift, R19
	B   step

failed:
	NEGW R0, R0
	ADD  $instruction_catch, R19, R10
	MOVW $const_catches, R11

catch:
	MOVHU (R10), R12
	CMPW  R0, R12
	BEQ   caught
	MOVW  $const_AnyError, R13
	CMPW  R13, R12
	BEQ   caught
	ADD   $4, R10
	SUBSW $1, R11
	BNE   catch
	B     report

caught:
	MOVH  2(R10), R9
	CBNZ  R9, go
	MOVD  $const_blockBase, R10 // the same once more
	MOVW  const_blockRetries(R10), R11
	SUBSW $1, R11
	MOVW  R11, const_blockRetries(R10)
	BGE   go

	// R0 is the errno.
report:
	MOVD  $const_blockBase, R10
	MOVW  R0, (const_blockReport+8)(R10)
	MOVBU instruction_code(R19), R0
	MOVW  R0, (const_blockReport+4)(R10)
	MOVWU instruction_where(R19), R0
	MOVWU -4(R0), R1
	MOVD  R0, (const_blockVectors+16)(R10)
	MOVD  R1, (const_blockVectors+24)(R10)
	MOVWU instruction_text(R19), R0
	MOVWU -4(R0), R2
	MOVD  R0, (const_blockVectors+32)(R10)
	MOVD  R2, (const_blockVectors+40)(R10)
	ADDW  R2, R1
	MOVW  R1, (const_blockReport+12)(R10)
	MOVWU const_blockHandler(R10), R19
	B     step

other:
	CMPW $const_opTest, R9
	BEQ  test
	CMPW $const_opSet, R9
	BEQ  set
	CMPW $const_opJump, R9
	BEQ  jump
	MOVW ZR, R0
	B    report

set:
	MOVW R1, (R0)
	B    next

jump:
	MOVD R0, R19
	B    step

test:
	MOVWU (R0), R0
	ANDW  R1, R0
	CMPW  R2, R0
	BEQ   next
	MOVW ZR, R0
	MOVH (instruction_catch+2)(R19), R9
	CBZ  R9, report
	B    go
	MARK

// handle is the signal handler.
TEXT handle<>(SB),NOSPLIT|NOFRAME,$0
	ADD  $128, R0
	MOVD $const_sysExitGroup, R8
	SVC
	BRK
	MARK

// func machineAddress() unsafe.Pointer
TEXT ·machineAddress(SB),NOSPLIT,$0-8
	MOVD $machine<>(SB), R0
	MOVD R0, ret+0(FP)
	RET

// func handleAddress() unsafe.Pointer
TEXT ·handleAddress(SB),NOSPLIT,$0-8
	MOVD $handle<>(SB), R0
	MOVD R0, ret+0(FP)
	RET
