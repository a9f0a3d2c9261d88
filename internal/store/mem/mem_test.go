package mem

import (
	"testing"

	"github.com/berthcloud/berth/internal/store"
	"github.com/berthcloud/berth/internal/store/storetest"
)

func TestSuite(t *testing.T) {
	storetest.Run(t, func(*testing.T) (store.Store, func() store.Store) { return New(), nil })
}
