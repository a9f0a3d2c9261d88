package qemu

import (
	"context"
	"errors"
	"os/exec"
	"strings"
)

// CPUModels returns the processor models that a system emulator knows.
func CPUModels(ctx context.Context, qemu string) ([]string, error) {
	out, err := exec.CommandContext(ctx, qemu, "-cpu", "help").Output()
	if err != nil {
		return nil, err
	}
	models := parseModels(string(out))
	if len(models) == 0 {
		return nil, errors.New("it lists none")
	}
	return models, nil
}

// parseModels reads what "-cpu help" prints: a heading, then a line for each model,
// which on x86 begins with the architecture's name before QEMU 8.
func parseModels(help string) []string {
	var models []string
	_, help, _ = strings.Cut(help, "Available CPUs:\n")
	for line := range strings.Lines(help) {
		fields := strings.Fields(line)
		if len(fields) > 1 && fields[0] == "x86" {
			fields = fields[1:]
		}
		if len(fields) == 0 {
			break
		}
		models = append(models, fields[0])
	}
	return models
}
