package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPages(t *testing.T) {
	for format, page := range map[string]string{"man": "berth-image-import.1", "markdown": "berth_image_import.md"} {
		dir := filepath.Join(t.TempDir(), "new")
		if err := run([]string{format, dir}); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(dir, page))
		if err != nil || !strings.Contains(string(text), "OCI layout") || strings.Contains(string(text), "Auto generated") {
			t.Errorf("%s: %v: %s", page, err, text)
		}
	}
	for _, args := range [][]string{nil, {"man"}, {"html", t.TempDir()}} {
		if run(args) == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}
