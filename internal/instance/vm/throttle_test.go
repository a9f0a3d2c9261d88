package vm_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcloud/berth/api"
)

// TestThrottle limits the disks of a VM from its first instruction on, and changes that
// while it runs.
func TestThrottle(t *testing.T) {
	h := newHarness(t)
	p := h.prepare(t, sh("dd if=/dev/zero of=/file bs=1M count=4 conv=fsync 2>/dev/null; sleep 1000"))
	p.Spec.Limits.DiskIOPS, p.Spec.Limits.DiskBandwidth = api.Rate{Limit: 5000}, api.Rate{Limit: 100 << 20, Burst: 200 << 20}
	run, err := h.driver().Create(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	defer run.Delete(context.WithoutCancel(t.Context()))
	if _, err := run.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	type throttle struct {
		IOPS      int64  `json:"iops"`
		IOPSMax   int64  `json:"iops_max"`
		Bps       int64  `json:"bps"`
		BpsMax    int64  `json:"bps_max"`
		BpsLength int64  `json:"bps_max_length"`
		Group     string `json:"group"`
	}
	want := func(when string, want throttle) {
		t.Helper()
		m := monitor(t, p)
		defer m.Close()
		var disks []struct {
			Inserted throttle `json:"inserted"`
		}
		if err := m.Execute(t.Context(), "query-block", nil, &disks); err != nil || len(disks) != 2 {
			t.Fatalf("%s: %+v, %v", when, disks, err)
		}
		for _, d := range disks {
			if diff := cmp.Diff(want, d.Inserted); diff != "" {
				t.Errorf("%s: %s", when, diff)
			}
		}
	}
	want("at first", throttle{IOPS: 5000, Bps: 100 << 20, BpsMax: 200 << 20, BpsLength: 1, Group: "disks"})
	update := func(l api.Limits) {
		t.Helper()
		if err := run.Update(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	l := p.Spec.Limits
	l.DiskIOPS = api.Rate{Limit: 500, Burst: 1000}
	update(l)
	want("after an update", throttle{IOPS: 500, IOPSMax: 1000, Bps: 100 << 20, BpsMax: 200 << 20, BpsLength: 1, Group: "disks"})
	l.DiskIOPS, l.DiskBandwidth = api.Rate{Limit: -1}, api.Rate{Limit: -1}
	update(l)
	want("without limits", throttle{})
}
