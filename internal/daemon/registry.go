package daemon

import (
	"context"
	"errors"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/registry"
	"github.com/berthcloud/berth/internal/undo"
)

// serveRegistry serves the store as a registry, if that is wanted, until the undo.
func (c *Config) serveRegistry(ctx context.Context, images *image.Store, u *undo.Stack) error {
	if c.Registry.Listen == "" {
		if c.Registry != (registry.Config{}) {
			return api.E("serve the registry", api.Invalid, "", errors.New("it has no address; give --registry, or leave the other --registry flags out"))
		}
		return nil
	}
	content, err := images.Repositories(ctx)
	if err != nil {
		return err
	}
	u.Add(func(context.Context) error { content.Close(); return nil })
	c.Registry.Log = c.Log
	server, err := registry.New(content, c.Registry)
	if err != nil {
		return err
	}
	l, err := registry.Listen(c.Registry.Listen)
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() {
		err := server.Serve(l)
		if err != nil {
			c.Log.Error("the registry has ended", "error", err)
		}
		served <- err
	}()
	u.Add(func(ctx context.Context) error {
		stop, cancel := context.WithTimeout(ctx, shutdownTimeout)
		defer cancel()
		return errors.Join(server.Shutdown(stop), <-served)
	})
	c.Log.Info("registry ready", "listen", l.Addr().String(), "name", c.Registry.Name, "tls", c.Registry.Cert != "")
	return nil
}
