package agent

import (
	"io"
	"testing"

	"github.com/berthcloud/berth/api"
)

// TestFreeze: the disks are at rest from Freeze's return until thaw, or until the host
// is gone.
func TestFreeze(t *testing.T) {
	let := make(chan string, 1)
	handle := func(c *Call) {
		if _, err := c.Output(ChannelStdout).Write([]byte{0}); err != nil {
			t.Error(err)
		}
		_, _ = io.Copy(io.Discard, c.Stdin())
		let <- "go"
		c.Reply(Reply{})
	}
	c := connected(t, handle)
	thaw, err := c.Freeze(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-let:
		t.Error("the guest has let go by itself")
	default:
	}
	if err := thaw(); err != nil || <-let != "go" {
		t.Error(err)
	}

	gone := connected(t, handle)
	if _, err := gone.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	gone.Close()
	<-let

	_, err = connected(t, func(c *Call) { c.Reply(Reply{Kind: api.Unsupported, Error: "no such call"}) }).Freeze(t.Context())
	if !api.IsKind(err, api.Unsupported) {
		t.Errorf("an older agent: %v", err)
	}
}
