package cli

import (
	"context"
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/cmd/berth/internal/show"
)

func newVersionCommand(g *global) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "version [OPTIONS]",
		Short: "Show the versions of the command and the daemon",
		Long:  exits("Show the versions of this command and of the daemon. That the daemon does not\nanswer is said on standard error and returned as 1; the rest is still shown."),
		Args:  args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runVersion(cmd.Context(), g, format)
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "json, or a Go template")
	return cmd
}

// versions is what version prints.
type versions struct {
	Client api.VersionInfo  `json:"client"`
	Server *api.VersionInfo `json:"server,omitempty"`
}

func runVersion(ctx context.Context, g *global, format string) error {
	v := versions{Client: api.VersionInfo{
		Version: g.Build.Version, Commit: g.Build.Commit, Built: g.Build.Built,
		Go: runtime.Version(), API: api.Version,
	}}
	c, err := g.client()
	if err != nil {
		return err
	}
	server, failed := c.Version(ctx)
	if failed == nil {
		v.Server = &server
	}
	err = show.One(g.Out, format, v, func(w io.Writer) error {
		printVersion(w, "Client", v.Client)
		if v.Server != nil {
			printVersion(w, "Server", *v.Server)
		}
		return nil
	})
	if err == nil {
		err = failed
	}
	return err
}

func printVersion(w io.Writer, who string, v api.VersionInfo) {
	fmt.Fprintf(w, "%s:\n  Version:  %s\n  API:      %s\n  Go:       %s\n", who, v.Version, v.API, v.Go)
	if v.Commit != "" {
		fmt.Fprintf(w, "  Commit:   %s\n", v.Commit)
	}
	if v.Built != "" {
		fmt.Fprintf(w, "  Built:    %s\n", v.Built)
	}
}
