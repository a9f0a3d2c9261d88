package client

import (
	"context"
	"io"
	"net/url"

	"github.com/berthcloud/berth/api"
)

// Images returns the images of the store, by name.
func (c *Client) Images(ctx context.Context) ([]api.Image, error) {
	return get[[]api.Image](ctx, c, nil, "images")
}

// Image returns an image with its layers, its configuration and its users.
func (c *Client) Image(ctx context.Context, ref string) (api.Image, error) {
	return get[api.Image](ctx, c, nil, "images", ref)
}

// RemoveImage removes a name from the store, and the content that no other
// name needs. Force removes it though stopped instances were made from it.
func (c *Client) RemoveImage(ctx context.Context, ref string, force bool) error {
	path, err := at("images", ref)
	if err != nil {
		return err
	}
	return c.send(ctx, request{method: "DELETE", path: path, query: query("force", flag(force))})
}

// TagImage gives an image a further name.
func (c *Client) TagImage(ctx context.Context, ref, name string) error {
	path, err := at("images", ref, "tag")
	if err != nil {
		return err
	}
	return c.send(ctx, request{method: "POST", path: path, query: query("name", name)})
}

// ExportDisk writes the disk of a disk image in a format: raw, qcow2, vmdk, vhdx, vdi.
func (c *Client) ExportDisk(ctx context.Context, ref, format string, w io.Writer) error {
	path, err := at("images", ref, "archive")
	if err != nil {
		return err
	}
	return c.tar(ctx, request{method: "GET", path: path, query: query("format", format)}, w)
}

// SBOM returns the bill of materials that is kept with an image.
func (c *Client) SBOM(ctx context.Context, ref string) (api.SBOM, error) {
	return get[api.SBOM](ctx, c, nil, "images", ref, "sbom")
}

// ExportImages writes images, at least one, as one OCI archive, which docker load reads too.
func (c *Client) ExportImages(ctx context.Context, refs []string, w io.Writer) error {
	path, err := at("images", refs[0], "archive")
	if err != nil {
		return err
	}
	return c.tar(ctx, request{method: "GET", path: path, query: url.Values{"with": refs[1:]}}, w)
}

// ImportImage sends an archive (plain tar, docker-archive, OCI archive;
// compressed or not) as an image of the given name ("": the archive's own) and
// hands each state of the operation to f. Giving up cancels the import.
func (c *Client) ImportImage(ctx context.Context, name string, archive io.Reader, f func(api.Operation) error) (api.Operation, error) {
	r := request{method: "POST", path: "/v1/archives", query: query("name", name), body: archive}
	return finish(ctx, c, r, f)
}

// Disk is a VM's disk to import.
type Disk struct {
	Format   string       // raw, qcow2, vmdk, vhdx, vdi or ova
	Firmware api.Firmware // bios or uefi: by which it starts; "" for the architecture's older one
	Platform string       // as in linux/arm64; "" for the host's
	Agent    bool         // berth-agent is a service of the guest's
}

// ImportDisk sends a VM's disk as an image of the given name, as ImportImage does an
// archive.
func (c *Client) ImportDisk(ctx context.Context, name string, d Disk, content io.Reader, f func(api.Operation) error) (api.Operation, error) {
	r := request{method: "POST", path: "/v1/archives", body: content, query: query(
		"name", name, "format", d.Format, "firmware", string(d.Firmware), "platform", d.Platform, "agent", flag(d.Agent))}
	return finish(ctx, c, r, f)
}

// Volumes returns all volumes, by name.
func (c *Client) Volumes(ctx context.Context) ([]api.Volume, error) {
	return get[[]api.Volume](ctx, c, nil, "volumes")
}

// Volume returns one volume with the instances that mount it.
func (c *Client) Volume(ctx context.Context, name string) (api.Volume, error) {
	return get[api.Volume](ctx, c, nil, "volumes", name)
}

// CreateVolume makes a volume; "" lets the daemon choose the name. Of a size, in bytes,
// it is a disk; of none a file tree.
func (c *Client) CreateVolume(ctx context.Context, name string, size int64, labels map[string]string) (api.Volume, error) {
	body := struct {
		Name   string            `json:"name,omitempty"`
		Size   int64             `json:"size,omitempty"`
		Labels map[string]string `json:"labels,omitempty"`
	}{name, size, labels}
	return call[api.Volume](ctx, c, request{method: "POST", path: "/v1/volumes", body: body})
}

// RemoveVolume deletes a volume with what it holds. With force a missing one
// is a success.
func (c *Client) RemoveVolume(ctx context.Context, name string, force bool) error {
	path, err := at("volumes", name)
	if err != nil {
		return err
	}
	return c.send(ctx, request{method: "DELETE", path: path, query: query("force", flag(force))})
}
