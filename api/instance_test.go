package api

import (
	"encoding/json"
	"testing"
)

// TestInitModeReadsOldRecords: a record that is not understood would stop berthd.
func TestInitModeReadsOldRecords(t *testing.T) {
	for text, want := range map[string]InitMode{`{"init":true}`: InitReap, `{"init":false}`: InitNone, `{"init":"system"}`: InitSystem, `{}`: ""} {
		var s Spec
		if err := json.Unmarshal([]byte(text), &s); err != nil || s.Init != want {
			t.Errorf("%s: %q, %v; want %q", text, s.Init, err, want)
		}
	}
}
