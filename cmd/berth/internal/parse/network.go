package parse

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/berthcloud/berth/api"
)

// NIC reads --network: NAME, or name=NAME[,ip=ADDRESS][,mac-address=MAC].
func NIC(s string) (api.NIC, error) {
	bad := func(why string) (api.NIC, error) {
		return api.NIC{}, fmt.Errorf("%q: %s; write NAME, or name=NAME[,ip=ADDRESS][,mac-address=MAC]", s, why)
	}
	var nic api.NIC
	if !strings.Contains(s, "=") {
		nic.Network = s
	} else {
		for field := range strings.SplitSeq(s, ",") {
			key, value, _ := strings.Cut(field, "=")
			switch strings.ToLower(key) {
			case "name":
				nic.Network = value
			case "ip":
				nic.Address = value
			case "mac-address":
				nic.MAC = value
			default:
				return bad("unknown key " + strconv.Quote(key))
			}
		}
	}
	if nic.Network == "bridge" { // docker's name for it
		nic.Network = api.NetworkDefault
	}
	if nic.Network == "" {
		return bad("it names no network")
	}
	return nic, nil
}
