package caps

import (
	"strings"
	"testing"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/oci/capability"
)

func TestBounding(t *testing.T) {
	for _, c := range []struct {
		name   string
		sec    api.Security
		has    string
		lacks  string
		number int
	}{
		{"default", api.Security{}, "CAP_CHOWN", "CAP_SYS_ADMIN", 14},
		{"add", api.Security{CapAdd: []string{"sys_admin", "CAP_CHOWN"}}, "CAP_SYS_ADMIN", "CAP_SYS_BOOT", 15},
		{"drop", api.Security{CapDrop: []string{"mknod"}}, "CAP_CHOWN", "CAP_MKNOD", 13},
		{"drop all, add one", api.Security{CapDrop: []string{"ALL"}, CapAdd: []string{"KILL"}}, "CAP_KILL", "CAP_CHOWN", 1},
		{"all but one", api.Security{CapAdd: []string{"all"}, CapDrop: []string{"sys_module"}}, "CAP_SYS_ADMIN", "CAP_SYS_MODULE", len(capability.Names()) - 1},
	} {
		got, err := Bounding(Defaults(), c.sec)
		text := " " + strings.Join(got, " ") + " "
		if err != nil || len(got) != c.number || !strings.Contains(text, " "+c.has+" ") || strings.Contains(text, " "+c.lacks+" ") {
			t.Errorf("%s: %v, %v", c.name, got, err)
		}
	}
	if _, err := Bounding(Defaults(), api.Security{CapAdd: []string{"fly"}}); err == nil || !strings.Contains(err.Error(), `"fly"`) {
		t.Errorf("an unknown capability: %v", err)
	}
}
