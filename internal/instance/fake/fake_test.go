package fake

import (
	"testing"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/instance/instancetest"
)

func TestSuite(t *testing.T) {
	world := NewWorld()
	instancetest.Run(t, instancetest.Harness{
		Driver:  func(*testing.T) instance.Driver { return New(world, api.Container) },
		Prepare: instancetest.Prepare,
	})
}
