package guest

import (
	"os"
	"strconv"
	"strings"
)

// vmstat reads one counter of /proc/vmstat, 0 where there is none.
func vmstat(name string) int {
	data, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if value, found := strings.CutPrefix(line, name+" "); found {
			n, _ := strconv.Atoi(strings.TrimSpace(value))
			return n
		}
	}
	return 0
}
