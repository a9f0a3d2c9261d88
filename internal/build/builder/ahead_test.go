package builder

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/berthcloud/berth/internal/testenv"
)

// TestUponSteps has the layers below steps made ahead, of the stage that is exported
// alone, but neither the base image's nor the topmost one.
func TestUponSteps(t *testing.T) {
	base := llb.Image("base")
	other := base.Run(llb.Shlex("other one")).Run(llb.Shlex("other two")).Root()
	for name, c := range map[string]struct {
		state llb.State
		want  []string
	}{
		"an image":        {base, nil},
		"one step":        {base.Run(llb.Shlex("one")).Root(), nil},
		"nothing":         {llb.Scratch().File(llb.Mkfile("/a", 0o600, nil)), nil},
		"steps":           {base.Run(llb.Shlex("one")).Run(llb.Shlex("two")).Run(llb.Shlex("three")).Root(), []string{"two", "three"}},
		"copies":          {base.Run(llb.Shlex("one")).Root().File(llb.Copy(other, "/a", "/b")), []string{"/b"}},
		"mounts":          {base.Run(llb.Shlex("one")).Run(llb.Shlex("two"), llb.AddMount("/other", other)).Root(), []string{"two"}},
		"from scratch":    {llb.Scratch().File(llb.Mkfile("/a", 0o600, nil)).File(llb.Mkfile("/b", 0o600, nil)), []string{"/b"}},
		"several in one":  {base.Run(llb.Shlex("one")).Root().File(llb.Mkdir("/c", 0o700).Mkdir("/d", 0o700)), []string{"/c"}},
		"upon two merged": {llb.Merge([]llb.State{base, other}).Run(llb.Shlex("one")).Run(llb.Shlex("two")).Root(), []string{"one", "two"}},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := c.state.Marshal(t.Context(), llb.LinuxAmd64)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, op := range uponSteps(d.ToPB()) {
				got = append(got, named(t, d.Def, op))
			}
			slices.Reverse(got)
			if !slices.Equal(got, c.want) {
				t.Errorf("%q; want %q", got, c.want)
			}
		})
	}
	if got := uponSteps(&pb.Definition{Def: [][]byte{[]byte("torn")}}); got != nil {
		t.Errorf("of what is no definition: %q", got)
	}
}

// named is what an operation of a definition does.
func named(t *testing.T, ops [][]byte, wanted digest.Digest) string {
	t.Helper()
	for _, text := range ops {
		if digest.FromBytes(text) != wanted {
			continue
		}
		var op pb.Op
		if err := op.UnmarshalVT(text); err != nil {
			t.Fatal(err)
		}
		if e := op.GetExec(); e != nil {
			return strings.Join(e.Meta.Args, " ")
		}
		action := op.GetFile().Actions[0]
		return action.GetCopy().GetDest() + action.GetMkfile().GetPath() + action.GetMkdir().GetPath()
	}
	t.Fatalf("there is no %s", wanted)
	return ""
}

// TestTakesUsual notes the builds whose layers may be made before they are asked for.
func TestTakesUsual(t *testing.T) {
	for name, c := range map[string]struct {
		request *controlapi.SolveRequest
		want    bool
	}{
		"an image":           {&controlapi.SolveRequest{Exporters: []*controlapi.Exporter{{Type: "image"}}}, true},
		"an archive":         {&controlapi.SolveRequest{Exporters: []*controlapi.Exporter{{Type: "local"}, {Type: "oci"}}}, true},
		"nothing":            {&controlapi.SolveRequest{}, false},
		"a directory":        {&controlapi.SolveRequest{Exporters: []*controlapi.Exporter{{Type: "local"}}}, false},
		"otherwise packed":   {&controlapi.SolveRequest{Exporters: []*controlapi.Exporter{{Type: "image", Attrs: map[string]string{"compression": "zstd"}}}}, false},
		"one of two is":      {&controlapi.SolveRequest{Exporters: []*controlapi.Exporter{{Type: "image"}, {Type: "oci", Attrs: map[string]string{"compression-level": "9"}}}}, false},
		"its cache's are so": {&controlapi.SolveRequest{Exporters: []*controlapi.Exporter{{Type: "image"}}, Cache: &controlapi.CacheOptions{Exports: []*controlapi.CacheOptionsEntry{{Type: "registry", Attrs: map[string]string{"force-compression": "true"}}}}}, false},
	} {
		if got := takesUsual(c.request); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestWant: what a build wants it wants no longer than it lasts.
func TestWant(t *testing.T) {
	a := newAhead(t.Context(), nil)
	one, cancelOne := context.WithCancel(t.Context())
	two, cancelTwo := context.WithCancel(t.Context())
	a.want(one, []digest.Digest{"a", "b"})
	a.want(two, []digest.Digest{"b"})
	cancelOne()
	testenv.Eventually(t, 10*time.Second, func() error { return unwanted(a, "a") })
	if !a.wants("b") || a.wants("c") {
		t.Errorf("wanted: %v", a.wanted)
	}
	cancelTwo()
	testenv.Eventually(t, 10*time.Second, func() error { return unwanted(a, "b") })
	if len(a.wanted) > 0 {
		t.Errorf("kept: %v", a.wanted)
	}
}

// unwanted reports an operation that is wanted.
func unwanted(a *ahead, op digest.Digest) error {
	if a.wants(op) {
		return fmt.Errorf("%s is wanted", op)
	}
	return nil
}
