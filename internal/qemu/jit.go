package qemu

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
)

// Sizes of the buffer of translated code, in MiB. It grows to its limit in a busy guest
// and is memory of the host. When it is full it is emptied, and 32 MiB are full just when
// Linux has booted: then all that follows takes twice as long. A machine that may get
// processors has room for their code after that.
const (
	translated     = 64
	translatedMore = 128
)

// codeBuffer is the size of a machine's, in MiB.
func (m *Machine) codeBuffer() int {
	if m.MaxCPUs > m.CPUs {
		return translatedMore
	}
	return translated
}

// regions returns in how many parts QEMU divides the buffer, of which every processor
// takes one after the other (tcg_n_regions in tcg/region.c).
func regions(maxCPUs int) int {
	n := translatedMore / 2
	switch {
	case maxCPUs == 1:
		return 1
	case n <= maxCPUs:
		return maxCPUs
	}
	return min(n, 8*maxCPUs)
}

// roomToTranslate reports whether QEMU surely has parts of its buffer left for more
// processors; where it has none, it aborts when one is added (tcg_region_initial_alloc).
// used is how much of the buffer is in use, of total.
func roomToTranslate(used, total int64, have, want, maxCPUs int) bool {
	n := int64(regions(maxCPUs))
	full := (used*n + total - 1) / total
	const between = 1 // that a processor may take before the new ones do
	return full+int64(have)+between+int64(want-have) <= n
}

// codeSize finds both numbers in what x-query-jit says to people.
var codeSize = regexp.MustCompile(`(?m)^gen code size +(\d+)/(\d+)\r?$`)

// canTranslate refuses more processors for which QEMU has no room, where it emulates them.
func (m *Monitor) canTranslate(ctx context.Context, have, want, maxCPUs int) error {
	var accelerator struct {
		Enabled bool `json:"enabled"` // KVM
	}
	if err := m.Execute(ctx, "query-kvm", nil, &accelerator); err != nil || accelerator.Enabled {
		return err
	}
	var said struct {
		Text string `json:"human-readable-text"`
	}
	if err := m.Execute(ctx, "x-query-jit", nil, &said); err != nil {
		return err
	}
	sizes := codeSize.FindStringSubmatch(said.Text)
	if sizes == nil {
		return errors.New("QEMU says nothing of its buffer of translated code")
	}
	used, uerr := strconv.ParseInt(sizes[1], 10, 64)
	total, terr := strconv.ParseInt(sizes[2], 10, 64)
	if uerr != nil || terr != nil || total <= 0 || !roomToTranslate(used, total, have, want, maxCPUs) {
		return fmt.Errorf("QEMU has no room left for the code of %d emulated processors: stop it first", want)
	}
	return nil
}
