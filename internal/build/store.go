package build

import (
	"context"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/protobuf"
	"github.com/containerd/containerd/v2/plugins/services/content/contentserver"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/berthcloud/berth/internal/image"
)

// registerStore serves what an image store stands on by containerd's services, for which
// it has clients. The names of images are the host service's.
func registerStore(s *grpc.Server, b image.Backing) {
	contentapi.RegisterContentServer(s, contentserver.New(b.Content))
	snapshotsapi.RegisterSnapshotsServer(s, snapshotservice.FromSnapshotter(b.Snapshots))
	leasesapi.RegisterLeasesServer(s, &leaseServer{leases: b.Leases})
}

// leaseServer serves leases: containerd exports no server of them.
type leaseServer struct {
	leasesapi.UnimplementedLeasesServer
	leases leases.Manager
}

// Create implements leasesapi.LeasesServer.
func (s *leaseServer) Create(ctx context.Context, r *leasesapi.CreateRequest) (*leasesapi.CreateResponse, error) {
	id := leases.WithRandomID()
	if r.ID != "" {
		id = leases.WithID(r.ID)
	}
	l, err := s.leases.Create(ctx, id, leases.WithLabels(r.Labels))
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &leasesapi.CreateResponse{Lease: leaseMessage(l)}, nil
}

// Delete implements leasesapi.LeasesServer. Garbage is collected by the host service.
func (s *leaseServer) Delete(ctx context.Context, r *leasesapi.DeleteRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, errgrpc.ToGRPC(s.leases.Delete(ctx, leases.Lease{ID: r.ID}))
}

// List implements leasesapi.LeasesServer.
func (s *leaseServer) List(ctx context.Context, r *leasesapi.ListRequest) (*leasesapi.ListResponse, error) {
	list, err := s.leases.List(ctx, r.Filters...)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	reply := &leasesapi.ListResponse{}
	for _, l := range list {
		reply.Leases = append(reply.Leases, leaseMessage(l))
	}
	return reply, nil
}

// AddResource implements leasesapi.LeasesServer.
func (s *leaseServer) AddResource(ctx context.Context, r *leasesapi.AddResourceRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, errgrpc.ToGRPC(s.leases.AddResource(ctx, leases.Lease{ID: r.ID}, leaseResource(r.Resource)))
}

// DeleteResource implements leasesapi.LeasesServer.
func (s *leaseServer) DeleteResource(ctx context.Context, r *leasesapi.DeleteResourceRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, errgrpc.ToGRPC(s.leases.DeleteResource(ctx, leases.Lease{ID: r.ID}, leaseResource(r.Resource)))
}

// ListResources implements leasesapi.LeasesServer.
func (s *leaseServer) ListResources(ctx context.Context, r *leasesapi.ListResourcesRequest) (*leasesapi.ListResourcesResponse, error) {
	list, err := s.leases.ListResources(ctx, leases.Lease{ID: r.ID})
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	reply := &leasesapi.ListResourcesResponse{}
	for _, one := range list {
		reply.Resources = append(reply.Resources, &leasesapi.Resource{ID: one.ID, Type: one.Type})
	}
	return reply, nil
}

func leaseMessage(l leases.Lease) *leasesapi.Lease {
	return &leasesapi.Lease{ID: l.ID, Labels: l.Labels, CreatedAt: protobuf.ToTimestamp(l.CreatedAt)}
}

func leaseResource(r *leasesapi.Resource) leases.Resource {
	return leases.Resource{ID: r.GetID(), Type: r.GetType()}
}
