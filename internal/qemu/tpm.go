package qemu

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strconv"
)

// TPM is a swtpm, which emulates the TPM 2.0 of one machine.
type TPM struct {
	Swtpm  string `json:"swtpm"`  // the program
	Socket string `json:"socket"` // it listens here
	State  string `json:"state"`  // an existing directory of UID's
	UID    uint32 `json:"uid,omitempty"`

	Program []Shown `json:"program,omitempty"` // swtpm's own files: see Libraries
}

// maxTPMFile bounds a file of a TPM's state, in bytes: it takes some 10 kB, to which
// a guest's own keys and indexes add what libtpms has room for, 128 KiB.
const maxTPMFile = 1 << 20

// Encode returns the TPM as LaunchTPM's caller reads it.
func (t *TPM) Encode() ([]byte, error) { return json.Marshal(t) }

// DecodeTPM reads what Encode wrote.
func DecodeTPM(data []byte) (*TPM, error) {
	var t TPM
	if err := json.Unmarshal(data, &t); err != nil {
		return nil, fmt.Errorf("the TPM's plan: %w", err)
	}
	return &t, nil
}

// stateDir is where swtpm finds its state.
const stateDir = "/state"

// LaunchTPM makes this process swtpm. It returns only an error.
//
// What a guest sends to its TPM is read by swtpm and libtpms, so they are confined as
// QEMU is, behind swtpm's own seccomp filter once more, and find the state and
// their own files alone. They end with the connection to QEMU.
func LaunchTPM(t *TPM) error {
	runtime.LockOSThread()
	const fd = firstFD
	if err := listen(Socket{FD: fd, Path: t.Socket}); err != nil {
		return err
	}
	if err := unspare(); err != nil {
		return err
	}
	err := confine(&Plan{UID: t.UID, MaxFile: maxTPMFile, Program: t.Program, Shown: []Shown{{Path: t.State, Name: stateDir, Mode: "dir"}}})
	if err != nil {
		return fmt.Errorf("confine swtpm: %w", err)
	}
	return become([]string{
		t.Swtpm, "socket", "--tpm2", "--terminate", "--seccomp", "action=kill",
		"--tpmstate", "dir=" + stateDir + ",mode=0600", "--ctrl", "type=unixio,fd=" + strconv.Itoa(fd),
	})
}
