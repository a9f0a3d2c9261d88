package qemu

import (
	"slices"
	"testing"
)

func TestParseModels(t *testing.T) {
	for name, help := range map[string]string{
		"7.2 x86":   "Available CPUs:\nx86 486                   (alias configured by machine type)\nx86 EPYC-Rome-v1          AMD EPYC-Rome Processor\nx86 max     Enables all\n\nRecognized CPUID flags:\n  3dnow abm\n",
		"9 x86":     "Available CPUs:\n  486                   (alias configured by machine type)\n  EPYC-Rome-v1          AMD EPYC-Rome Processor\n  max\n\nRecognized CPUID flags:\n  3dnow abm\n",
		"8 no flag": "Available CPUs:\n  486\n  EPYC-Rome-v1\n  max\n",
	} {
		if got := parseModels(help); !slices.Equal(got, []string{"486", "EPYC-Rome-v1", "max"}) {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := parseModels("what"); got != nil {
		t.Errorf("of no list: %q", got)
	}
}

// TestCPUModels asks the real one.
func TestCPUModels(t *testing.T) {
	models, err := CPUModels(t.Context(), program(t))
	if err != nil || !slices.Contains(models, "EPYC") || !slices.Contains(models, "max") {
		t.Errorf("%q, %v", models, err)
	}
}
