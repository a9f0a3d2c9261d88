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
	var freed int64
	err = call(ctx, conn, builderService, "Prune", nothing{}, &freed)
	return freed, api.E("prune the build cache", "", "", err)
}
