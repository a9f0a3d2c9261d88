package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/client"
	"github.com/berthcloud/berth/cmd/berth/internal/parse"
	"github.com/berthcloud/berth/cmd/berth/internal/show"
)

// pullOptions are the flags of pull.
type pullOptions struct {
	quiet    bool
	insecure bool
	lazy     bool
	platform string
}

func newPullCommand(g *global) *cobra.Command {
	var o pullOptions
	cmd := &cobra.Command{
		Use:   "pull [OPTIONS] IMAGE [IMAGE...]",
		Short: "Fetch images from their registries",
		Long:  exits("Fetch images from their registries and print their names. The credentials are\nthose that the docker configuration of the daemon's user has for the registry. An\ninterrupted pull is resumed by the next one. With --platform the name means the\nimage of that platform here, and only that.\n\nWith --lazy an image is there as soon as its files are known: what they hold is\nfetched when something reads it, and the rest behind. That takes layers in the\neStargz format and a registry that sends parts of them; what else there is comes\nas a whole. docs/lazy.md says when it is faster, and when not."),
		Args:  args(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := value("--platform", o.platform, &o.platform, parse.Platform); err != nil {
				return usage(err)
			}
			return runPull(cmd.Context(), g, o, args)
		},
	}
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "do not show progress")
	cmd.Flags().BoolVar(&o.insecure, "insecure", false, "accept plain HTTP and certificates nobody vouches for")
	cmd.Flags().BoolVar(&o.lazy, "lazy", false, "be done once the image can be used, and fetch the rest behind")
	cmd.Flags().StringVar(&o.platform, "platform", "", "platform, as in linux/arm64 (default: the host's)")
	return cmd
}

func runPull(ctx context.Context, g *global, o pullOptions, images []string) error {
	return eachResult(ctx, g, images, func(image string) (string, error) {
		return operate(ctx, g, o.quiet, pullRequest(image, o))
	})
}

// pull fetches one image and prints nothing but its progress.
func pull(ctx context.Context, g *global, image string, o pullOptions) error {
	_, err := operate(ctx, g, o.quiet, pullRequest(image, o))
	return err
}

func pullRequest(image string, o pullOptions) client.OperationRequest {
	return client.OperationRequest{Pull: &client.PullRequest{Image: image, Platform: o.platform, Insecure: o.insecure, Lazy: o.lazy}}
}

// operate runs an operation to its end, shows its progress, and returns its
// result.
func operate(ctx context.Context, g *global, quiet bool, r client.OperationRequest) (string, error) {
	c, err := g.client()
	if err != nil {
		return "", err
	}
	return watch(g, quiet, func(f func(api.Operation) error) (api.Operation, error) { return c.Run(ctx, r, f) })
}

// watch shows the progress of what run does.
func watch(g *global, quiet bool, run func(func(api.Operation) error) (api.Operation, error)) (string, error) {
	if quiet {
		op, err := run(nil)
		return op.Result, err
	}
	p := show.NewProgress(g.Err, g.width())
	op, err := run(p.Update)
	return op.Result, errors.Join(err, p.Close())
}

// eachResult does f for every name, goes on after a failure, and prints the
// results. It returns the failures.
func eachResult(ctx context.Context, g *global, names []string, f func(string) (string, error)) error {
	failed := false
	for _, name := range names {
		result, err := f(name)
		if ctx.Err() != nil {
			return err
		}
		if err != nil {
			report(g.Err, err)
			failed = true
			continue
		}
		fmt.Fprintln(g.Out, result)
	}
	if failed {
		return &exitError{code: exitFailed}
	}
	return nil
}
