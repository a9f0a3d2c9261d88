package vm

import (
	"context"
	"errors"
	"fmt"

	"github.com/berthcloud/berth/api"
)

// shareID names a share's server in the keeper.
func shareID(id string, i int) string { return fmt.Sprintf("%s.fs%d", id, i) }

// startShare starts the server of a share.
func (h *handle) startShare(ctx context.Context, i int, s share, cgroups []string) error {
	return api.E("mount", api.Unsupported, s.Source, errors.New("not yet"))
}
