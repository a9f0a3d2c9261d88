package fakenet_test

import (
	"testing"

	"github.com/berthcloud/berth/internal/network"
	"github.com/berthcloud/berth/internal/network/fakenet"
	"github.com/berthcloud/berth/internal/network/networktest"
)

func TestSuite(t *testing.T) {
	networktest.Run(t, func(*testing.T) (network.Network, func() network.Network) { return fakenet.New(), nil })
}

func TestSetSuite(t *testing.T) {
	networktest.RunSet(t, func(*testing.T) (network.Set, func() network.Set) { return fakenet.NewSet(), nil })
}
