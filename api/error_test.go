package api

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

func TestErrorIsOneLine(t *testing.T) {
	cause := errors.New("disk\nfull")
	for want, err := range map[string]error{
		"start web: disk full":                     E("start", Exhausted, "web", cause),
		"start web: sh: disk full":                 E("start", "", "web", E("start", NoCommand, "sh", cause)),
		"start web: create: disk full":             E("start", "", "web", E("create", NoCommand, "web", cause)),
		"pull: disk full":                          E("pull", "", "", E("", Corrupt, "", cause)),
		"start web: layer 3: mount web: disk full": E("start", "", "web", fmt.Errorf("layer 3: %w", E("mount", "", "web", cause))),
		"web: disk full":                           E("", NotFound, "web", cause),
	} {
		if err.Error() != want {
			t.Errorf("got %q; want %q", err, want)
		}
	}
}

func TestKind(t *testing.T) {
	inner := E("mount", Exhausted, "x", errors.New("full"))
	for want, err := range map[ErrorKind]error{
		"":        nil,
		Internal:  errors.New("plain"),
		Exhausted: E("start", "", "web", fmt.Errorf("wrapped: %w", inner)),
		Denied:    E("start", Denied, "web", inner),
		Canceled:  E("start", Internal, "web", context.Canceled),
	} {
		if got := KindOf(err); got != want {
			t.Errorf("%v has kind %q; want %q", err, got, want)
		}
	}
	if E("op", Internal, "x", nil) != nil {
		t.Error("no cause made an error")
	}
}

func TestProblemRoundTrip(t *testing.T) {
	err := E("start", NoCommand, "web", errors.New("no such command"))
	back := ProblemOf(err).Err()
	if back.Error() != err.Error() || KindOf(back) != NoCommand {
		t.Errorf("%v (%s) came back as %v (%s)", err, KindOf(err), back, KindOf(back))
	}
	if ProblemOf(nil) != nil || (*Problem)(nil).Err() != nil {
		t.Error("no error did not stay none")
	}
}
