package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func checkResources(s *specs.Spec) error {
	if strings.ContainsRune(s.Linux.CgroupsPath, 0) {
		return errors.New("linux.cgroupsPath: contains a NUL byte")
	}
	if slices.Contains(strings.Split(s.Linux.CgroupsPath, "/"), "..") {
		return fmt.Errorf(`linux.cgroupsPath: %q must not contain ".." (config-linux.md: "Runtimes MAY consider certain cgroupsPath values to be invalid, and MUST generate an error if this is the case")`, s.Linux.CgroupsPath)
	}
	return CheckResources(s.Linux.Resources)
}

// CheckResources reports the first contradiction of limits, those of an update too.
func CheckResources(r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	for i, d := range r.Devices {
		switch d.Type {
		case "", "a", "b", "c":
		default:
			return fmt.Errorf("linux.resources.devices[%d].type: %q is none of a, b, c", i, d.Type)
		}
		if strings.Trim(d.Access, "rwm") != "" {
			return fmt.Errorf("linux.resources.devices[%d].access: %q has more than r, w, m", i, d.Access)
		}
	}
	if err := checkCPU(r.CPU); err != nil {
		return err
	}
	if err := checkBlockIO(r.BlockIO); err != nil {
		return err
	}
	if r.Memory != nil && r.Memory.Swappiness != nil && *r.Memory.Swappiness > 100 {
		return errors.New(`linux.resources.memory.swappiness: must be at most 100 (config-linux.md: "The values are from 0 to 100")`)
	}
	for i, l := range r.HugepageLimits {
		if !pageSize(l.Pagesize) {
			return fmt.Errorf(`linux.resources.hugepageLimits[%d].pageSize: %q is no such size (config-linux.md: "The value has the format <size><unit-prefix>B (64KB, 2MB, 1GB)")`, i, l.Pagesize)
		}
	}
	for name, l := range r.Rdma {
		if name == "" || strings.ContainsAny(name, " \n\x00") {
			return fmt.Errorf("linux.resources.rdma: %q is not the name of a device", name)
		}
		if l.HcaHandles == nil && l.HcaObjects == nil {
			return fmt.Errorf(`linux.resources.rdma[%q]: no limit (config-linux.md: "You MUST specify at least one of the hcaHandles or hcaObjects in a given entry")`, name)
		}
	}
	for name := range r.Unified {
		if strings.ContainsAny(name, "/\x00") || !strings.Contains(name, ".") {
			return fmt.Errorf("linux.resources.unified: %q is not the name of a cgroup file", name)
		}
	}
	return nil
}

func checkCPU(c *specs.LinuxCPU) error {
	if c != nil && c.Burst != nil && c.Quota != nil && *c.Quota > 0 && *c.Burst > uint64(*c.Quota) {
		return fmt.Errorf(`linux.resources.cpu.burst: %d is more than the quota %d (config-linux.md: "this value MUST be no larger than any positive quota")`, *c.Burst, *c.Quota)
	}
	return nil
}

func checkBlockIO(b *specs.LinuxBlockIO) error {
	if b == nil {
		return nil
	}
	// 0 stands for "not set": dockerd always sends the field, and runc takes it so.
	if b.Weight != nil && *b.Weight != 0 && (*b.Weight < 10 || *b.Weight > 1000) {
		return errors.New("linux.resources.blockIO.weight: must be between 10 and 1000")
	}
	for i, d := range b.WeightDevice {
		if d.Weight == nil && d.LeafWeight == nil {
			return fmt.Errorf(`linux.resources.blockIO.weightDevice[%d]: no weight (config-linux.md: "You MUST specify at least one of weight or leafWeight in a given entry")`, i)
		}
	}
	return nil
}

// pageSize accepts digits, a prefix and B: it becomes part of a file's name.
func pageSize(s string) bool {
	digits := strings.TrimRight(s, "KMGB")
	return digits != "" && strings.Trim(digits, "0123456789") == "" && slices.Contains([]string{"KB", "MB", "GB"}, s[len(digits):])
}

// ParseResources decodes and checks the limits of update --resources.
func ParseResources(raw []byte) (*specs.LinuxResources, error) {
	r := &specs.LinuxResources{}
	if err := json.Unmarshal(raw, r); err != nil {
		return nil, decodeError(err)
	}
	return r, CheckResources(r)
}
