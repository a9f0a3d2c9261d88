//go:build !amd64

package qemu

import "context"

// TSCKHz is 0: only x86 has a time stamp counter.
func TSCKHz(context.Context) int { return 0 }
