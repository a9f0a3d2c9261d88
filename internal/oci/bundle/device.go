package bundle

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxInterfaceName is IFNAMSIZ of the kernel less the final NUL.
const maxInterfaceName = 15

func checkNetDevices(s *specs.Spec) error {
	if len(s.Linux.NetDevices) > 0 && Namespace(s, specs.NetworkNamespace) == nil {
		return errors.New("linux.netDevices: needs a network namespace in linux.namespaces")
	}
	for name, d := range s.Linux.NetDevices {
		field := fmt.Sprintf("linux.netDevices[%q]", name)
		if err := checkInterfaceName(name); err != nil {
			return fmt.Errorf("%s: %w", field, err)
		}
		if d.Name == "" {
			continue
		}
		// "%d" is a template for the kernel to fill in.
		if err := checkInterfaceName(strings.Replace(d.Name, "%d", "0", 1)); err != nil {
			return fmt.Errorf("%s.name: %q: %w", field, d.Name, err)
		}
	}
	return nil
}

// checkInterfaceName is dev_valid_name of the kernel.
func checkInterfaceName(name string) error {
	switch {
	case name == "", name == ".", name == "..":
		return errors.New("not the name of a network interface")
	case len(name) > maxInterfaceName:
		return fmt.Errorf("longer than %d bytes", maxInterfaceName)
	case strings.ContainsAny(name, "/:%\x00 \t\n\v\f\r"):
		return errors.New("a network interface's name has no slash, colon, percent sign or space")
	}
	return nil
}

// checkIntelRdt checks what becomes a directory's name and lines of a file in resctrl.
func checkIntelRdt(s *specs.Spec) error {
	r := s.Linux.IntelRdt
	if r == nil {
		return nil
	}
	if id := r.ClosID; id != "/" && (strings.ContainsAny(id, "/\n\x00") || slices.Contains([]string{".", "..", "info", "mon_groups", "mon_data"}, id)) {
		return fmt.Errorf("linux.intelRdt.closID: %q is not the name of a class of service", id)
	}
	if r.MemBwSchema != "" && !strings.HasPrefix(r.MemBwSchema, "MB:") {
		return fmt.Errorf(`linux.intelRdt.memBwSchema: %q does not start with "MB:" (config-linux.md: "The value MUST start with MB: and MUST NOT contain newlines")`, r.MemBwSchema)
	}
	for _, line := range append([]string{r.L3CacheSchema, r.MemBwSchema}, r.Schemata...) {
		if strings.ContainsAny(line, "\n\x00") {
			return fmt.Errorf(`linux.intelRdt: the schema %q contains a newline (config-linux.md: "The value MUST NOT contain newlines")`, line)
		}
	}
	return nil
}
