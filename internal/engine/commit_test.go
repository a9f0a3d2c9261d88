package engine

import (
	"reflect"
	"testing"

	"github.com/berthcloud/berth/api"
)

// TestCommitted: an image runs as the instance does that it was made of.
func TestCommitted(t *testing.T) {
	base := api.ImageConfig{Entrypoint: []string{"/init"}, Command: []string{"all"}, Env: []string{"A=1", "B=2"}, User: "web", WorkingDir: "/srv"}
	for name, c := range map[string]struct {
		spec api.Spec
		want api.ImageConfig
	}{
		"as it was":      {want: base},
		"command":        {api.Spec{Command: []string{"one"}}, api.ImageConfig{Entrypoint: []string{"/init"}, Command: []string{"one"}, Env: base.Env, User: "web", WorkingDir: "/srv"}},
		"entrypoint":     {api.Spec{Entrypoint: []string{"sh"}}, api.ImageConfig{Entrypoint: []string{"sh"}, Env: base.Env, User: "web", WorkingDir: "/srv"}},
		"no entrypoint":  {api.Spec{Entrypoint: []string{""}, Command: []string{"ls"}}, api.ImageConfig{Command: []string{"ls"}, Env: base.Env, User: "web", WorkingDir: "/srv"}},
		"variables":      {api.Spec{Env: []string{"A=3", "C=4"}}, api.ImageConfig{Entrypoint: base.Entrypoint, Command: base.Command, Env: []string{"A=3", "B=2", "C=4"}, User: "web", WorkingDir: "/srv"}},
		"user and place": {api.Spec{User: "root", WorkingDir: "/"}, api.ImageConfig{Entrypoint: base.Entrypoint, Command: base.Command, Env: base.Env, User: "root", WorkingDir: "/"}},
	} {
		if got := committed(c.spec, base); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
	if base.Env[0] != "A=1" {
		t.Errorf("the base has become %v", base.Env)
	}
}
