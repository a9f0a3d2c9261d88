package build

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/disk"
)

// Prune removes what of the cache no build uses now, and returns how many bytes that
// freed of the disk. Images stay.
func (s *Service) Prune(ctx context.Context) (int64, error) {
	if _, err := os.Stat(filepath.Join(s.Config.Root, "metadata.db")); errors.Is(err, os.ErrNotExist) {
		return 0, nil // nothing was ever built
	}
	first, err := s.acquire(ctx)
	if err != nil {
		return 0, api.E("prune the build cache", "", "", err)
	}
	defer s.release()
	conns := make(chan net.Conn, 1)
	conns <- first
	conn, err := grpc.NewClient("passthrough:///builder", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			select {
			case conn := <-conns:
				return conn, nil
			default:
				return nil, errors.New("the builder has ended")
			}
		}))
	if err != nil {
		first.Close()
		return 0, api.E("prune the build cache", "", "", err)
	}
	defer conn.Close()
	before, err := s.taken(ctx)
	if err == nil {
		err = call(ctx, conn, builderService, "Prune", nothing{}, &nothing{})
	}
	if err != nil {
		return 0, api.E("prune the build cache", "", "", err)
	}
	if _, err := s.Images.Collect(ctx); err != nil {
		return 0, err
	}
	after, err := s.taken(ctx)
	return max(before-after, 0), api.E("prune the build cache", "", "", err)
}

// taken is what builds take of the disk, in bytes, beside images. Layers that an image
// has too stay when the cache goes.
func (s *Service) taken(ctx context.Context) (int64, error) {
	_, cached, err := s.Images.Usage(ctx)
	if err != nil {
		return 0, err
	}
	size, err := disk.Allocated(ctx, s.Config.Root)
	return cached + size, err
}
