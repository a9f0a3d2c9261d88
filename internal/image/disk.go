package image

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/disk"
)

// A disk image is an OCI artifact: a config of its own type, and one blob, the
// content of the disk, raw, or an index and chunks, once it has traveled. The store
// keeps the content as a sparse file, which VMs share and read only.
const (
	diskArtifact   = "application/vnd.berth.disk.v1"
	diskConfigType = "application/vnd.berth.disk.config.v1+json"
	diskRawType    = "application/vnd.berth.disk.content.v1.raw"
)

// maxDisk bounds a disk, in bytes. A header of a few bytes can promise any size,
// and the digest of a disk is taken of all of it.
const maxDisk = 512 << 30

// Disk is the disk of an image of that type.
type Disk struct {
	Path     string // of the content, raw, a regular file on the host
	Size     int64  // bytes
	Firmware api.Firmware
	Agent    bool // berth-agent is a service of the guest's
	// Config is how instances of the image run that the disk was made of, as that
	// image's config has it; nil where it was made of none.
	Config json.RawMessage
}

// diskConfig is the config of a disk image.
type diskConfig struct {
	Created      *time.Time   `json:"created,omitempty"`
	Architecture string       `json:"architecture"` // as GOARCH
	Firmware     api.Firmware `json:"firmware"`     // bios or uefi: by which it starts where nobody chooses
	Format       disk.Format  `json:"format"`       // of the content
	VirtualSize  int64        `json:"virtual_size"` // bytes
	Agent        bool         `json:"agent,omitempty"`
	// Config is that of the image that the disk was made of, where it was.
	Config json.RawMessage `json:"config,omitempty"`

	run api.ImageConfig // what Config says
}

// parseDiskConfig reads the config of a disk image with its blobs, and refuses what could harm a reader later.
func parseDiskConfig(b []byte, layers []ocispec.Descriptor) (*diskConfig, error) {
	fail := func(format string, args ...any) (*diskConfig, error) {
		return nil, api.E("", api.Invalid, "", fmt.Errorf("the disk image is refused: "+format, args...))
	}
	var c diskConfig
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, api.E("", api.Corrupt, "", fmt.Errorf("the disk image's config is not valid: %w", err))
	}
	if len(c.Config) > 0 {
		doc, err := parseConfig(b)
		if err != nil {
			return nil, err
		}
		c.run = doc.api()
	}
	raw := len(layers) == 1 && layers[0].MediaType == diskRawType
	switch {
	case !raw && !inChunks(&ocispec.Manifest{Layers: layers}):
		return fail("it has %d blobs, and neither an index of chunks nor one of type %s", len(layers), diskRawType)
	case !architectures[c.Architecture]:
		return fail("it is for %.40q, and there are amd64 and arm64", c.Architecture)
	case c.Firmware != api.FirmwareBIOS && c.Firmware != api.FirmwareUEFI:
		return fail("its firmware %.40q is neither bios nor uefi", c.Firmware)
	case c.Format != disk.Raw:
		return fail("its format %.40q is not raw", c.Format)
	case c.VirtualSize <= 0 || c.VirtualSize > maxDisk || c.VirtualSize%disk.Sector != 0:
		return fail("a disk of %d bytes", c.VirtualSize)
	case raw && c.VirtualSize != layers[0].Size:
		return fail("it promises %d bytes and has %d", c.VirtualSize, layers[0].Size)
	}
	if !raw {
		if err := checkChunks(layers); err != nil {
			return fail("%w", err)
		}
	}
	return &c, nil
}

// diskConfigOf reads the config that a disk image's manifest names.
func (s *Store) diskConfigOf(ctx context.Context, m *ocispec.Manifest) (*diskConfig, error) {
	b, err := s.readBlob(ctx, m.Config, maxConfig)
	if err != nil {
		return nil, err
	}
	return parseDiskConfig(b, m.Layers)
}

// readDisk is read for a disk image.
func (s *Store) readDisk(ctx context.Context, manifest ocispec.Descriptor, m *ocispec.Manifest) (Image, error) {
	c, err := s.diskConfigOf(ctx, m)
	if err != nil {
		return Image{}, err
	}
	whole, err := s.wholeDisk(ctx, m, nil)
	if err != nil {
		return Image{}, err
	}
	if _, err := s.content.Info(ctx, whole); err != nil {
		return Image{}, err
	}
	img := Image{Digest: manifest.Digest.String(), Arch: c.Architecture, Disk: &Disk{
		Path: s.blobPath(whole.String()), Size: c.VirtualSize, Firmware: c.Firmware, Agent: c.Agent, Config: c.Config,
	}}
	if c.Created != nil {
		img.Created = *c.Created
	}
	return img, nil
}

// describeDisk is describe for a disk image.
func (s *Store) describeDisk(ctx context.Context, img *api.Image, m *ocispec.Manifest) error {
	img.Type = TypeDisk
	c, err := s.diskConfigOf(ctx, m)
	if err != nil {
		return err
	}
	first, err := s.content.Info(ctx, m.Layers[0].Digest) // the disk, or the index
	if err != nil {
		return err
	}
	img.Size += s.allocated(first)
	for _, l := range m.Layers[1:] {
		img.Size += l.Size
	}
	if d := digest.Digest(first.Labels[diskRefLabel]); d != "" && s.hasDisk(ctx, d) {
		img.Size += s.allocated(content.Info{Digest: d, Size: c.VirtualSize})
	}
	img.Platform = "linux/" + c.Architecture
	if c.Created != nil {
		img.Created = *c.Created
	}
	if len(c.Config) > 0 {
		img.Config = &c.run
	}
	img.Disk = &api.DiskImage{Size: c.VirtualSize, Format: string(c.Format), Firmware: c.Firmware, Agent: c.Agent}
	return nil
}

// allocated returns how many bytes of the host's disk a blob takes: a disk has holes.
func (s *Store) allocated(info content.Info) int64 {
	var st syscall.Stat_t
	if syscall.Stat(s.blobPath(info.Digest.String()), &st) != nil {
		return info.Size
	}
	return min(info.Size, st.Blocks*512)
}

// DiskOptions say how a disk that is imported is to be named and started.
type DiskOptions struct {
	Name     string       // required
	Format   disk.Format  // of what is imported; OVA too
	Firmware api.Firmware // "" for what an OVA says, or the architecture's older one
	Arch     string       // as GOARCH; "" for the host's
	Agent    bool
	Created  time.Time       // zero means now
	Config   json.RawMessage // of the image that it was made of
	Progress Progress
}

// config makes the config of a disk of size bytes.
func (o DiskOptions) config(size int64) (*diskConfig, error) {
	c := &diskConfig{Architecture: o.Arch, Firmware: o.Firmware, Format: disk.Raw, VirtualSize: size, Agent: o.Agent, Config: o.Config}
	if c.Architecture == "" {
		c.Architecture = runtime.GOARCH
	}
	if c.Firmware == "" {
		c.Firmware = api.FirmwareBIOS
		if c.Architecture == "arm64" {
			c.Firmware = api.FirmwareUEFI
		}
	}
	created := o.Created
	if created.IsZero() {
		created = time.Now()
	}
	created = created.UTC()
	c.Created = &created
	if c.Architecture == "arm64" && c.Firmware == api.FirmwareBIOS {
		return nil, api.E("", api.Unsupported, "", fmt.Errorf("arm64 has no BIOS: choose --firmware uefi, or leave it out"))
	}
	return c, nil
}
