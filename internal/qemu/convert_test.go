package qemu

import "testing"

func TestConversionPlan(t *testing.T) {
	for name, c := range map[string]Conversion{
		"convert-check.golden": {Program: "/usr/bin/qemu-img", From: "/s/tmp/disk", FromFormat: "qcow2", UID: 99},
		"convert.golden": {
			Program: "/usr/bin/qemu-img", From: "/s/tmp/disk", FromFormat: "raw", To: "/s/tmp/file", ToFormat: "vmdk", UID: 99, MaxFile: 1 << 30,
		},
		"convert-base.golden": {
			Program: "/usr/bin/qemu-img", From: "/s/tmp/overlay", FromFormat: "qcow2", Base: "/s/tmp/base", To: "/s/tmp/raw", ToFormat: "raw", UID: 99, MaxFile: 1 << 30,
		},
	} {
		got, err := c.Plan().Encode()
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name, append(got, '\n'))
	}
}
