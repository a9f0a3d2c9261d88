package bundle

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// CheckProcess reports the first contradiction of a process.
func CheckProcess(p *specs.Process) error {
	if len(p.Args) == 0 {
		return errors.New(`process.args: missing (config.md: "at least one entry is REQUIRED")`)
	}
	if p.Args[0] == "" {
		return errors.New("process.args[0]: empty")
	}
	for i, a := range p.Args {
		if err := noNUL(fmt.Sprintf("process.args[%d]", i), a); err != nil {
			return err
		}
	}
	for i, e := range p.Env {
		if err := noNUL(fmt.Sprintf("process.env[%d]", i), e); err != nil {
			return err
		}
		if !strings.Contains(e, "=") {
			return fmt.Errorf("process.env[%d]: %q is not NAME=value", i, e)
		}
	}
	if p.Cwd == "" {
		return errors.New(`process.cwd: missing (config.md: "cwd (string, REQUIRED)")`)
	}
	if !filepath.IsAbs(p.Cwd) {
		return fmt.Errorf(`process.cwd: %q must be an absolute path (config.md: "This value MUST be an absolute path")`, p.Cwd)
	}
	if err := noNUL("process.cwd", p.Cwd); err != nil {
		return err
	}
	if p.OOMScoreAdj != nil && (*p.OOMScoreAdj < -1000 || *p.OOMScoreAdj > 1000) {
		return fmt.Errorf("process.oomScoreAdj: %d is not between -1000 and 1000", *p.OOMScoreAdj)
	}
	if p.User.Umask != nil && *p.User.Umask > 0o777 {
		return fmt.Errorf("process.user.umask: %#o is not a file mode mask", *p.User.Umask)
	}
	if p.ConsoleSize != nil && (p.ConsoleSize.Height > 0xffff || p.ConsoleSize.Width > 0xffff) {
		return errors.New("process.consoleSize: more than 65535 rows or columns")
	}
	seen := map[string]bool{}
	for i, r := range p.Rlimits {
		if seen[r.Type] {
			return fmt.Errorf(`process.rlimits[%d].type: %q stands twice in the list (config.md: "If rlimits contains duplicated entries with same type, the runtime MUST generate an error")`, i, r.Type)
		}
		seen[r.Type] = true
		if r.Soft > r.Hard {
			return fmt.Errorf("process.rlimits[%d]: soft limit %d above the hard limit %d", i, r.Soft, r.Hard)
		}
	}
	return checkIOPriority(p.IOPriority)
}

func checkIOPriority(p *specs.LinuxIOPriority) error {
	if p == nil {
		return nil
	}
	switch p.Class {
	case specs.IOPRIO_CLASS_RT, specs.IOPRIO_CLASS_BE, specs.IOPRIO_CLASS_IDLE:
	default:
		return fmt.Errorf("process.ioPriority.class: unknown class %q", p.Class)
	}
	if p.Priority < 0 || p.Priority > 7 {
		return fmt.Errorf(`process.ioPriority.priority: %d is not between 0 and 7 (config.md: "an integer ranging from 0 (highest) to 7 (lowest)")`, p.Priority)
	}
	return nil
}
