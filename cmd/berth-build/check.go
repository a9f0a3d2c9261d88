package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/frontend/subrequests/lint"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
)

// check has the frontend look for mistakes in a Dockerfile, in all of its stages unless
// one is named, and builds nothing. A warning is a failure, as docker has it.
func check(ctx context.Context, bk *bkclient.Client, opt bkclient.SolveOpt) error {
	var found lint.LintResults
	ask := gateway.SolveRequest{Frontend: opt.Frontend, FrontendOpt: opt.FrontendAttrs}
	ask.FrontendOpt["requestid"] = lint.RequestLint
	opt.Exports = nil
	_, err := bk.Build(ctx, opt, "berth", func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		answer, err := c.Solve(ctx, ask)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(answer.Metadata["result.json"], &found); err != nil {
			return nil, fmt.Errorf("this frontend cannot check: %w", err)
		}
		return gateway.NewResult(), nil
	}, nil)
	if err != nil {
		return err
	}
	printWarnings(warned(&found))
	if wrong := found.Error; wrong != nil {
		return sourced(errors.New(wrong.Message), &found, &wrong.Location)
	}
	if n := len(found.Warnings); n > 0 {
		return fmt.Errorf("warnings: %d", n)
	}
	return nil
}

// sourced is an error with the lines that it is about, where it is about any.
func sourced(err error, found *lint.LintResults, at *pb.Location) error {
	if source := sourceOf(found, at); source != nil {
		return errdefs.WithSource(err, &errdefs.Source{Info: source, Ranges: at.Ranges})
	}
	return err
}

// sourceOf returns the file that a location is in, nil where it says no lines.
func sourceOf(found *lint.LintResults, at *pb.Location) *pb.SourceInfo {
	if at == nil || len(at.Ranges) == 0 || at.SourceIndex < 0 || int(at.SourceIndex) >= len(found.Sources) {
		return nil
	}
	return found.Sources[at.SourceIndex]
}

// warned is what was found as a build tells it.
func warned(found *lint.LintResults) (list []bkclient.VertexWarning) {
	for _, w := range found.Warnings {
		var one bkclient.VertexWarning
		line := 0
		if one.SourceInfo = sourceOf(found, w.Location); one.SourceInfo != nil {
			one.Range = w.Location.Ranges
			line = int(one.Range[0].Start.Line)
		}
		one.Short = []byte(linter.LintFormatShort(w.RuleName, w.Detail, line))
		one.Detail = [][]byte{[]byte(w.Description)}
		list = append(list, one)
	}
	return list
}
