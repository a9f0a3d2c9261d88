package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/api"
)

// layout is a directory in OCI image layout. It is read through os.Root, so
// that symbolic links in it lead nowhere else.
type layout struct{ *os.Root }

func openLayout(dir string) (*layout, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	if _, err := root.Stat(ocispec.ImageLayoutFile); err != nil {
		root.Close()
		return nil, api.E("", api.Invalid, "", errors.New("the directory is no OCI layout (it has no file oci-layout); pack a root filesystem with tar first"))
	}
	return &layout{root}, nil
}

// document reads a small file.
func (l *layout) document(name string) ([]byte, error) {
	f, err := l.Open(name)
	if err != nil {
		return nil, incomplete(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err == nil && len(b) > maxDocument {
		err = api.E("", api.Invalid, "", fmt.Errorf("%s has more than %d bytes", name, maxDocument))
	}
	return b, err
}

// copy stores one blob of the layout.
func (l *layout) copy(ctx context.Context, s *Store, desc ocispec.Descriptor) error {
	if s.keep(ctx, desc.Digest) {
		return nil
	}
	f, err := l.Open("blobs/sha256/" + desc.Digest.Encoded())
	if err != nil {
		return incomplete(err)
	}
	defer f.Close()
	got, err := s.writeBlob(ctx, contextReader{ctx, f}, desc.MediaType, nil)
	if err != nil {
		return err
	}
	if got.Digest != desc.Digest || got.Size != desc.Size {
		return api.E("", api.Corrupt, "", fmt.Errorf("blob %s has the digest %s and %d bytes; the layout is damaged", desc.Digest, got.Digest, got.Size))
	}
	return nil
}
