// Command berth-keeper is the one small process per daemon that outlives
// berthd: parent of every container's init and every QEMU, holder of their
// standard streams, writer of their logs, witness of their exit codes.
//
//	berth-keeper --run DIR            keep in the foreground
//	berth-keeper --run DIR --detach   return once it keeps in the background
//
// It is started by berthd; package internal/keeper has the client and the
// manual.
package main

import (
	"os"

	"github.com/berthcloud/berth/internal/keeper/server"
)

// version is set by the linker.
var version = "dev"

func main() { os.Exit(server.Main(os.Args[1:], version)) }
