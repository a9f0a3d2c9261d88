package client

import (
	"context"
	"net"
	"net/http"
	"net/url"

	"github.com/coder/websocket"

	"github.com/berthcloud/berth/api"
)

// Build says what to build, as the command line does. Names of fields that docker build
// has as options mean what they mean there.
type Build struct {
	Host string `json:"host,omitempty"` // of the daemon, as New takes it

	Context  string            `json:"context"`            // a directory, a URL, or "-" for standard input
	File     string            `json:"file,omitempty"`     // "" for Dockerfile in the context; "-" for standard input
	Contexts map[string]string `json:"contexts,omitempty"` // further ones, by name
	Target   string            `json:"target,omitempty"`
	VM       bool              `json:"vm,omitempty"` // its steps run in VMs: it is untrusted
	Platform []string          `json:"platform,omitempty"`
	Args     map[string]string `json:"args,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`

	Tags    []string `json:"tags,omitempty"`
	Outputs []string `json:"outputs,omitempty"` // nil: an image in the store of the daemon
	Attest  []string `json:"attest,omitempty"`

	Check         bool     `json:"check,omitempty"` // look for mistakes and build nothing
	NoCache       bool     `json:"no_cache,omitempty"`
	NoCacheFilter []string `json:"no_cache_filter,omitempty"`
	Pull          bool     `json:"pull,omitempty"`
	CacheFrom     []string `json:"cache_from,omitempty"`
	CacheTo       []string `json:"cache_to,omitempty"`

	Network string   `json:"network,omitempty"`
	AddHost []string `json:"add_host,omitempty"` // NAME:ADDRESS
	Secrets []string `json:"secrets,omitempty"`
	SSH     []string `json:"ssh,omitempty"`
	Ulimits []string `json:"ulimits,omitempty"`
	ShmSize int64    `json:"shm_size,omitempty"` // bytes

	Progress string `json:"progress,omitempty"`
	IDFile   string `json:"id_file,omitempty"`
}

// BuildConn returns a connection on which the daemon speaks BuildKit's control protocol
// (gRPC, moby.buildkit.v1.Control). A build ends with it, and with ctx. With vm the steps
// of its builds run in VMs, and share no cache with those of others.
func (c *Client) BuildConn(ctx context.Context, vm bool) (net.Conn, error) {
	query := url.Values{}
	if vm {
		query.Set("vm", "true")
	}
	conn, res, err := websocket.Dial(ctx, c.url("/v1/build", query), &websocket.DialOptions{HTTPClient: c.http})
	if err != nil {
		if res != nil && res.StatusCode != http.StatusSwitchingProtocols {
			return nil, responseError(res)
		}
		return nil, c.transportError(ctx, err)
	}
	return websocket.NetConn(ctx, conn, websocket.MessageBinary), nil
}

// PruneBuildCache removes what of the cache of builds no build uses now. Images stay.
func (c *Client) PruneBuildCache(ctx context.Context) (api.Pruned, error) {
	return call[api.Pruned](ctx, c, request{method: "DELETE", path: "/v1/build/cache"})
}
