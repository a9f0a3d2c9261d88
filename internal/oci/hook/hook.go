// Package hook runs the hooks of a bundle.
package hook

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxOutput is how much of a failed hook's output is quoted, in bytes.
const maxOutput = 1024

// Run runs hooks one after another with the container's state on standard input
// (runtime.md, Lifecycle). The first failure ends it: the caller decides whether it
// is fatal.
func Run(point string, hooks []specs.Hook, state []byte) error {
	for i, h := range hooks {
		if err := run(h, state); err != nil {
			return fmt.Errorf("hooks.%s[%d] %s: %w", point, i, h.Path, err)
		}
	}
	return nil
}

func run(h specs.Hook, state []byte) error {
	ctx := context.Background()
	if h.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*h.Timeout)*time.Second)
		defer cancel()
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	cmd.Env = h.Env
	if cmd.Env == nil {
		cmd.Env = []string{} // nil would mean the runtime's own
	}
	cmd.Stdin = bytes.NewReader(state)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second // a grandchild may keep the output open
	err := cmd.Run()
	if ctx.Err() != nil {
		return fmt.Errorf("took longer than its timeout of %d s", *h.Timeout)
	}
	if err != nil && out.Len() > 0 {
		text := strings.TrimSpace(string(out.Bytes()[max(0, out.Len()-maxOutput):]))
		return fmt.Errorf("%w: %s", err, strings.Join(strings.Fields(text), " "))
	}
	return err
}
