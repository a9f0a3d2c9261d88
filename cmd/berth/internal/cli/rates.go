package cli

import (
	"errors"

	"github.com/spf13/pflag"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/cmd/berth/internal/parse"
)

// rateOptions are the flags for what may pass in a second.
type rateOptions struct{ diskIOPS, diskBandwidth, netBandwidth string }

func (o *rateOptions) define(f *pflag.FlagSet) {
	f.StringVar(&o.diskIOPS, "disk-iops", "", "disk operations per second LIMIT[:BURST], as in 500:1000; -1 for no limit")
	f.StringVar(&o.diskBandwidth, "disk-bandwidth", "", "bytes per second to and from disks LIMIT[:BURST], as in 50m; -1 for no limit")
	f.StringVar(&o.netBandwidth, "net-bandwidth", "", "bytes per second to and from the network, each, LIMIT[:BURST], as in 10m; -1 for no limit")
}

// read writes the rates that were given over limits.
func (o *rateOptions) read(l *api.Limits) error {
	return errors.Join(
		value("--disk-iops", o.diskIOPS, &l.DiskIOPS, parse.Rate(parse.Count)),
		value("--disk-bandwidth", o.diskBandwidth, &l.DiskBandwidth, parse.Rate(parse.Size)),
		value("--net-bandwidth", o.netBandwidth, &l.NetBandwidth, parse.Rate(parse.Size)),
	)
}
