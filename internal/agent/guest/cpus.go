package guest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// discovery bounds the wait for the kernel to find a processor that was added: ACPI
// tells it at once, an emulated one takes a moment.
const discovery = 10 * time.Second

// useCPUs switches on every processor until so many run. Linux leaves one that was
// added at run time to the user's programs, which an image need not have.
func useCPUs(count int) error {
	deadline := time.NewTimer(discovery)
	defer deadline.Stop()
	for {
		running, err := switchOnCPUs()
		if err != nil || running >= count {
			return err
		}
		select {
		case <-deadline.C:
			return fmt.Errorf("the guest's kernel runs %d processors of %d: it cannot add any", running, count)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// switchOnCPUs switches on all processors that the kernel knows, and counts them.
func switchOnCPUs() (running int, err error) {
	dirs, err := filepath.Glob("/sys/devices/system/cpu/cpu[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, dir := range dirs {
		file := filepath.Join(dir, "online")
		state, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) { // the first, which cannot be switched off
			running++
			continue
		}
		if err == nil && !bytes.HasPrefix(state, []byte("1")) {
			err = os.WriteFile(file, []byte("1"), 0)
		}
		if err != nil {
			return running, err
		}
		running++
	}
	return running, nil
}
