package cgroup

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Below returns the group of a cgroup that exists below this one: "path" in every
// hierarchy, or with v1 "controller,controller:path" in those of the controllers.
func (g *Group) Below(text string) (*Group, error) {
	paths := maps.Clone(g.Paths())
	path, chosen := text, slices.Collect(maps.Keys(paths))
	if controllers, rest, ok := strings.Cut(text, ":"); ok {
		if g.v2 {
			return nil, fmt.Errorf("%q: cgroup v2 has one hierarchy for all controllers", text)
		}
		path, chosen = rest, strings.Split(controllers, ",")
	}
	path = strings.TrimPrefix(path, "/")
	if !filepath.IsLocal(path) {
		return nil, fmt.Errorf("%q does not lead below the container's cgroup", text)
	}
	for _, name := range chosen {
		dir := paths[name]
		if dir == "" {
			if name == "" {
				continue
			}
			return nil, fmt.Errorf("the container has no cgroup of the controller %q", name)
		}
		paths[name] = filepath.Join(dir, path)
		if _, err := os.Stat(paths[name]); err != nil {
			return nil, err
		}
	}
	return Open(paths, "")
}
