package bundle

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// maxListed is the largest number a list may hold: unix.CPUSet has 1024 bits, and the
// kernel's nodes number at most as many (CONFIG_NODES_SHIFT up to 10).
const maxListed = 1023

// ParseList reads a list of processors or memory nodes, "0-3,7", as the specification
// writes them for cpus, mems, memoryPolicy.nodes and execCPUAffinity.
func ParseList(text string) ([]int, error) {
	var list []int
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		from, err := listed(first)
		to := from
		if err == nil && isRange {
			to, err = listed(last)
		}
		if err == nil && to < from {
			err = errors.New("ends before it begins")
		}
		if err != nil {
			return nil, fmt.Errorf("%q: %w", part, err)
		}
		for n := from; n <= to; n++ {
			list = append(list, n)
		}
		if len(list) > maxListed+1 {
			return nil, fmt.Errorf("%q: lists more than there can be", part)
		}
	}
	return list, nil
}

func listed(digits string) (int, error) {
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || n > maxListed {
		return 0, fmt.Errorf("not a number up to %d or a range of them", maxListed)
	}
	return int(n), nil
}
