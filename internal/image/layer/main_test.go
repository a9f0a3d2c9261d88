package layer_test

import (
	"os"
	"testing"

	"github.com/berthcloud/berth/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }
