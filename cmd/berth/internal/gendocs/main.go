// Command gendocs writes the manual of the berth command from the same command
// tree that runs: man pages or Markdown, one file per command. It is a program
// of its own so that berth does not carry the generator.
//
//	go run ./cmd/berth/internal/gendocs man DIR
//	go run ./cmd/berth/internal/gendocs markdown DIR
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/berthcloud/berth/cmd/berth/internal/cli"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "gendocs:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: gendocs man|markdown DIR")
	}
	format, dir := args[0], args[1]
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root := cli.Command()
	prepare(root)
	switch format {
	case "man":
		// Dated by SOURCE_DATE_EPOCH where it is set, so that the same source
		// yields the same pages.
		return doc.GenManTree(root, &doc.GenManHeader{Title: "BERTH", Section: "1", Source: "Berth", Manual: "Berth manual"}, dir)
	case "markdown":
		return doc.GenMarkdownTree(root, dir)
	}
	return fmt.Errorf("%q is not a format; write man or markdown", format)
}

// prepare leaves the generation's own traces out of every page.
func prepare(cmd *cobra.Command) {
	cmd.DisableAutoGenTag = true
	for _, c := range cmd.Commands() {
		prepare(c)
	}
}
