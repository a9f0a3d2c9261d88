// Command berth-lazy shows the layers of an image before they have arrived, and fetches
// them: see package lazy. berthd starts it and tells it which on its standard input. Its
// argument is where they are mounted, for ps to show.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/berthcloud/berth/internal/image/lazy/server"
)

func main() {
	if err := server.Run(context.Background(), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "berth-lazy:", err)
		os.Exit(1)
	}
}
