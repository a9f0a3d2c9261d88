package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"

	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/progress/progressui"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/status"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/client"
)

// build builds, and shows how it goes.
func build(ctx context.Context, b *client.Build) error {
	daemon, err := client.New(b.Host)
	if err != nil {
		return err
	}
	defer daemon.Close()
	opt, cleanup, err := options(b)
	defer cleanup()
	if err != nil {
		return usageError{api.E("build", api.Invalid, "", err)}
	}
	// One connection carries everything: control, session and progress.
	first, err := daemon.BuildConn(ctx, b.VM)
	if err != nil {
		return err
	}
	conns := make(chan net.Conn, 1)
	conns <- first
	bk, err := bkclient.New(ctx, "unix:///berth", bkclient.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		select {
		case conn := <-conns:
			return conn, nil
		default:
			return nil, errors.New("the connection to berthd is lost")
		}
	}))
	if err != nil {
		return err
	}
	defer bk.Close()
	if b.Check {
		return check(ctx, bk, opt)
	}
	return solve(ctx, bk, b, opt)
}

// solve has the daemon build and writes its progress to standard error.
func solve(ctx context.Context, bk *bkclient.Client, b *client.Build, opt bkclient.SolveOpt) error {
	display, err := progressui.NewDisplay(os.Stderr, progressui.DisplayMode(b.Progress))
	if err != nil {
		return usageError{err}
	}
	progress := make(chan *bkclient.SolveStatus)
	g, ctx := errgroup.WithContext(ctx)
	var response *bkclient.SolveResponse
	g.Go(func() (err error) {
		response, err = bk.Solve(ctx, nil, opt, progress)
		return err
	})
	var warnings []bkclient.VertexWarning
	g.Go(func() (err error) {
		// What was shown is to be whole, however the build ends.
		warnings, err = display.UpdateFrom(context.WithoutCancel(ctx), progress)
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if progressui.DisplayMode(b.Progress) != progressui.RawJSONMode {
		printWarnings(warnings)
	}
	return finish(b, response)
}

// finish tells what was made.
func finish(b *client.Build, response *bkclient.SolveResponse) error {
	digest := response.ExporterResponse[exptypes.ExporterImageDigestKey]
	if b.IDFile != "" && digest != "" {
		if err := os.WriteFile(b.IDFile, []byte(digest), 0o644); err != nil {
			return api.E("build", "", b.IDFile, err)
		}
	}
	if b.Outputs != nil {
		return nil
	}
	if len(b.Tags) == 0 {
		fmt.Fprintln(os.Stderr, "berth: the result has no name and is only in the cache; name it with -t")
		return nil
	}
	if progressui.DisplayMode(b.Progress) == progressui.QuietMode {
		_, err := fmt.Fprintln(os.Stdout, digest)
		return err
	}
	return nil
}

// printWarnings shows what the linter of Dockerfiles found.
func printWarnings(warnings []bkclient.VertexWarning) {
	for _, w := range warnings {
		fmt.Fprintf(os.Stderr, "berth: warning: %s", api.OneLine(string(w.Short)))
		if w.SourceInfo != nil && len(w.Range) > 0 {
			fmt.Fprintf(os.Stderr, " (%s:%d)", w.SourceInfo.Filename, w.Range[0].Start.Line)
		}
		fmt.Fprintln(os.Stderr)
		for _, d := range w.Detail {
			fmt.Fprintf(os.Stderr, "  %s\n", api.OneLine(string(d)))
		}
	}
}

// message is what a build failed by, and where in its Dockerfile, without what gRPC and
// the parts of BuildKit that it went through say of themselves.
func message(err error) string {
	text := err.Error()
	if s, ok := status.FromError(err); ok {
		text = s.Message()
	}
	for _, prefix := range []string{"failed to solve: ", "rpc error: code = Unknown desc = "} {
		text = strings.ReplaceAll(text, prefix, "")
	}
	if strings.Contains(text, defaultScanner) {
		text += "; --sbom needs a scanner: name an image that is here, or can be had, with --sbom=generator=IMAGE"
	}
	for _, source := range errdefs.Sources(err) {
		if at := position(source); at != "" {
			return "build: " + at + ": " + parseError.ReplaceAllString(text, "")
		}
	}
	if strings.HasPrefix(text, "build") {
		return text
	}
	return "build: " + text
}

// defaultScanner is in the name of the image by which BuildKit makes bills of materials.
const defaultScanner = "buildkit-syft-scanner"

// parseError is what BuildKit begins with where it says in which line the error is.
var parseError = regexp.MustCompile(`^dockerfile parse error on line [0-9]+: `)

// position is where an error is, as FILE:LINE:COLUMN, both from 1; "" where nobody knows.
// The parser tells lines. The column is where the instruction begins.
func position(s *errdefs.Source) string {
	if s.Info == nil || len(s.Ranges) == 0 || s.Ranges[0].Start == nil {
		return ""
	}
	at := s.Ranges[0].Start
	lines := strings.Split(string(s.Info.Data), "\n")
	if at.Line < 1 || int(at.Line) > len(lines) {
		return ""
	}
	column := int(at.Character)
	if line := lines[at.Line-1]; column == 0 {
		column = len(line) - len(strings.TrimLeft(line, " \t"))
	}
	return fmt.Sprintf("%s:%d:%d", s.Info.Filename, at.Line, column+1)
}
