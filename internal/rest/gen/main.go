// Command gen prints the OpenAPI document of the REST API.
//
//	go run ./internal/rest/gen >docs/openapi.json
package main

import (
	"fmt"
	"os"

	"github.com/berthcloud/berth/internal/rest"
)

func main() {
	text, err := rest.OpenAPI()
	if err == nil {
		_, err = os.Stdout.Write(text)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "openapi:", err)
		os.Exit(1)
	}
}
