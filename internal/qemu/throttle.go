package qemu

import "context"

// Throttle is what all disks of a machine together may do in a second; 0 is no limit.
// A burst is what they may do within one second after a pause.
type Throttle struct {
	IOPS, IOPSBurst           int64
	Bandwidth, BandwidthBurst int64 // bytes
}

// throttleGroup is the group of all disks, which makes them share a limit.
const throttleGroup = "disks"

// throttling is the argument of block_set_io_throttle (block-core.json,
// BlockIOThrottle). All of these must be there; what is 0 is no limit.
type throttling struct {
	ID       string `json:"id"`
	Group    string `json:"group"`
	Bps      int64  `json:"bps"`
	BpsRead  int64  `json:"bps_rd"`
	BpsWrite int64  `json:"bps_wr"`
	Iops     int64  `json:"iops"`
	IopsRd   int64  `json:"iops_rd"`
	IopsWr   int64  `json:"iops_wr"`
	BpsMax   int64  `json:"bps_max,omitempty"`
	IopsMax  int64  `json:"iops_max,omitempty"`
}

// Throttle limits the disks of a machine, at any time.
func (m *Monitor) Throttle(ctx context.Context, t Throttle) error {
	var devices []struct {
		Path string `json:"qdev"`
	}
	if err := m.Execute(ctx, "query-block", nil, &devices); err != nil {
		return err
	}
	for _, d := range devices {
		if d.Path == "" {
			continue // firmware's memory, not a disk
		}
		err := m.Execute(ctx, "block_set_io_throttle", throttling{
			ID: d.Path, Group: throttleGroup, Bps: t.Bandwidth, Iops: t.IOPS, BpsMax: t.BandwidthBurst, IopsMax: t.IOPSBurst,
		}, nil)
		if err != nil {
			return err
		}
	}
	return nil
}
