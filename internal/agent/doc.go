// Package agent is the conversation between a host and berth-agent, the
// process 1 of a virtual machine that was made from an OCI image.
//
// A guest is told what to be when it boots (Config, on its read-only disk),
// runs its entrypoint on ports of its own, and says on another one how it
// ended (Exit). All else goes over the control port, by the protocol below.
//
// # The protocol
//
// The control port is a byte stream in both directions. It carries frames:
//
//	magic (1) | type (1) | stream (4) | length (4) | payload
//
// with numbers big endian. A conversation begins with a greeting, because
// either side may have left in the middle of a frame before:
//
//	host                                  guest
//	  │── hello(nonce) ──────────────────▶│  forgets all streams
//	  │◀────────────────── hello(nonce) ──│  the host drops what comes before it
//	  │                                   │
//	  │── open(stream, Request) ─────────▶│
//	  │── data, end, control, cancel ────▶│
//	  │◀────────────────────── data, end ─│
//	  │◀───────────────────────── window ─│  in both directions
//	  │◀─────────────────── reply(Reply) ─│  ends the stream
//
// On a machine without virtio the port is a serial line, which loses what comes
// before the guest reads: there the guest says that it does now, by a hello without
// a nonce, and a waiting host greets again.
//
// A host whose greeting is not answered connects and greets again (Connect says why).
// Each host counts its streams from one, so nothing is sent of a stream that is over:
// before a greeting is answered, all of the host before are.
//
// A stream is one call. Each of its channels (standard input, output, error)
// has a window: at most windowSize bytes are on the way that the receiver has
// not taken. So one slow reader holds up its own call only.
//
// # Trust
//
// The guest may be hostile. The host bounds the length of every frame and the
// bytes it keeps for a stream, decodes only into plain values, never waits
// without a deadline, and ends the conversation at the first violation. The
// guest trusts its host.
package agent
