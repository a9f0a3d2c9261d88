package rootless

import (
	"context"
)

// Ports leads published ports of the host to the inside, through forward.
type Ports struct{ Dir string }

// Try fails, with EADDRINUSE or its like, where a port of the host cannot be listened
// on.
func (p Ports) Try(ctx context.Context, port Port) error {
	_, files, err := ask(ctx, p.Dir, forwardSocket, request{Op: opTry, Ports: []Port{port}})
	closeFiles(files)
	return err
}

// Lead leads these ports and no others. If it fails, what was led still is.
func (p Ports) Lead(ctx context.Context, ports []Port) error {
	_, files, err := ask(ctx, p.Dir, forwardSocket, request{Op: opLead, Ports: ports})
	closeFiles(files)
	return err
}
