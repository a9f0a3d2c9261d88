package rest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/engine"
)

// The content types of answers that are no JSON value.
const (
	linesType     = "application/x-ndjson"
	tarType       = "application/x-tar"
	pngType       = "image/png"
	websocketType = "websocket"
)

// none is the answer of an operation that answers nothing but its success.
func none(err error) (struct{}, error) { return struct{}{}, err }

// orEmpty is a list that is [] on the wire where it is nil, never null.
func orEmpty[T any](l []T, e error) ([]T, error) {
	if l == nil {
		l = []T{}
	}
	return l, e
}

// noRoute says that a request fits no operation.
func noRoute(r *http.Request) error {
	return api.E("", api.NotFound, r.Method+" "+r.URL.Path, errors.New("no such operation; see /v1/openapi.json"))
}

// RefInput names an instance. Like all structs that others embed it is
// exported, because huma passes over embedded ones that are not.
type RefInput struct {
	Ref string `path:"ref" maxLength:"256" doc:"name, id, or unique prefix of the id"`
}

// FilterInput narrows a list.
type FilterInput struct {
	Filter []string `query:"filter,explode" maxItems:"64" doc:"KEY=VALUE; values of one key are alternatives, keys must all match"`
}

// filters reads the filters.
func (f FilterInput) filters() (map[string][]string, error) {
	filters := map[string][]string{}
	for _, text := range f.Filter {
		key, value, ok := strings.Cut(text, "=")
		if !ok {
			return nil, api.E("", api.Invalid, text, errors.New("a filter is written KEY=VALUE"))
		}
		filters[key] = append(filters[key], value)
	}
	return filters, nil
}

type listInput struct {
	All bool `query:"all" doc:"also instances that do not run"`
	FilterInput
}

type createInput struct {
	Start bool `query:"start" doc:"start it as well; where that fails, nothing is left of it"`
	Body  api.Spec
}

// Changes are what an update can change; fields left out stay as they are.
type Changes struct {
	Limits  *api.Limits        `json:"limits,omitempty" doc:"all limits as they shall be"`
	Restart *api.RestartPolicy `json:"restart,omitempty"`
}

type updateInput struct {
	RefInput
	Body Changes
}

type renameInput struct {
	RefInput
	Name string `query:"name" required:"true" minLength:"1" maxLength:"256"`
}

type removeInput struct {
	RefInput
	Force   bool `query:"force" doc:"end what still runs"`
	Volumes bool `query:"volumes" doc:"remove unnamed volumes too"`
}

type stopInput struct {
	RefInput
	Signal  string `query:"signal" maxLength:"32" doc:"name or number; default: the instance's"`
	Timeout string `query:"timeout" maxLength:"32" doc:"grace before SIGKILL, as in 10s; default: the instance's"`
}

// options reads the parameters.
func (in *stopInput) options() (engine.StopOptions, error) {
	o := engine.StopOptions{Signal: in.Signal}
	if in.Timeout != "" {
		d, err := time.ParseDuration(in.Timeout)
		if err != nil {
			return o, api.E("", api.Invalid, "timeout", fmt.Errorf("%q is not a duration; write it as in 10s", in.Timeout))
		}
		if d < 0 {
			return o, api.E("", api.Invalid, "timeout", fmt.Errorf("%q is negative; write a long duration for no bound", in.Timeout))
		}
		o.Timeout = &d
	}
	return o, nil
}

type killInput struct {
	RefInput
	Signal string `query:"signal" maxLength:"32" doc:"name or number; default SIGKILL"`
}

type waitInput struct {
	RefInput
	Condition string `query:"condition" enum:"next-exit,removed" doc:"default: until it does not run"`
}

// instanceRoutes registers what concerns instances as a whole.
func (s *Server) instanceRoutes(a huma.API) {
	const tag, base, one = "instances", "/v1/instances", "/v1/instances/{ref}"
	handle(a, route{id: "list-instances", method: "GET", path: base, tag: tag, summary: "List instances, newest first",
		description: "Filters: name, id, label, status, kind, image."},
		func(ctx context.Context, in *listInput) ([]api.Instance, error) {
			filters, err := in.filters()
			if err != nil {
				return nil, err
			}
			return orEmpty(s.Records.List(ctx, engine.ListOptions{All: in.All, Filters: filters}))
		})
	handle(a, route{id: "create-instance", method: "POST", path: base, tag: tag, summary: "Make an instance", status: http.StatusCreated},
		func(ctx context.Context, in *createInput) (api.Instance, error) {
			if in.Start {
				return s.Lives.Run(ctx, in.Body, nil)
			}
			return s.Records.Create(ctx, in.Body)
		})
	handle(a, route{id: "get-instance", method: "GET", path: one, tag: tag, summary: "Get an instance"},
		func(ctx context.Context, in *RefInput) (api.Instance, error) { return s.Records.Get(ctx, in.Ref) })
	handle(a, route{id: "explain-instance", method: "GET", path: one + "/explanation", tag: tag, summary: "What was decided for a VM, why, and what else there is"},
		func(ctx context.Context, in *RefInput) (api.Explanation, error) {
			return s.Records.Explain(ctx, in.Ref)
		})
	handle(a, route{id: "update-instance", method: "PATCH", path: one, tag: tag, summary: "Change limits and restart policy, live"},
		func(ctx context.Context, in *updateInput) (api.Instance, error) {
			return s.Records.Update(ctx, in.Ref, engine.Changes(in.Body))
		})
	handle(a, route{id: "remove-instance", method: "DELETE", path: one, tag: tag, summary: "Remove an instance"},
		func(ctx context.Context, in *removeInput) (struct{}, error) {
			return none(s.Records.Remove(ctx, in.Ref, engine.RemoveOptions{Force: in.Force, Volumes: in.Volumes}))
		})
	handle(a, route{id: "rename-instance", method: "POST", path: one + "/rename", tag: tag, summary: "Give an instance another name"},
		func(ctx context.Context, in *renameInput) (struct{}, error) {
			return none(s.Records.Rename(ctx, in.Ref, in.Name))
		})
	handle(a, route{id: "start-instance", method: "POST", path: one + "/start", tag: tag, summary: "Start an instance"},
		func(ctx context.Context, in *RefInput) (api.Instance, error) { return s.Lives.Start(ctx, in.Ref) })
	handle(a, route{id: "stop-instance", method: "POST", path: one + "/stop", tag: tag, summary: "Ask an instance to end, then end it by force",
		description: "Answers once the instance has ended."},
		func(ctx context.Context, in *stopInput) (struct{}, error) {
			o, err := in.options()
			if err != nil {
				return none(err)
			}
			return none(s.Lives.Stop(ctx, in.Ref, o))
		})
	handle(a, route{id: "restart-instance", method: "POST", path: one + "/restart", tag: tag, summary: "Stop an instance and start it again"},
		func(ctx context.Context, in *stopInput) (struct{}, error) {
			o, err := in.options()
			if err != nil {
				return none(err)
			}
			return none(s.Lives.Restart(ctx, in.Ref, o))
		})
	handle(a, route{id: "kill-instance", method: "POST", path: one + "/kill", tag: tag, summary: "Send a signal to an instance's entrypoint"},
		func(ctx context.Context, in *killInput) (struct{}, error) {
			return none(s.Lives.Kill(ctx, in.Ref, in.Signal))
		})
	handle(a, route{id: "pause-instance", method: "POST", path: one + "/pause", tag: tag, summary: "Freeze an instance in memory"},
		func(ctx context.Context, in *RefInput) (struct{}, error) { return none(s.Lives.Pause(ctx, in.Ref)) })
	handle(a, route{id: "unpause-instance", method: "POST", path: one + "/unpause", tag: tag, summary: "Let a paused instance go on"},
		func(ctx context.Context, in *RefInput) (struct{}, error) { return none(s.Lives.Unpause(ctx, in.Ref)) })
	handle(a, route{id: "suspend-instance", method: "POST", path: one + "/suspend", tag: tag, summary: "Save a VM to disk and take its memory back"},
		func(ctx context.Context, in *RefInput) (struct{}, error) { return none(s.Lives.Suspend(ctx, in.Ref)) })
	handle(a, route{id: "resume-instance", method: "POST", path: one + "/resume", tag: tag, summary: "Let a suspended VM go on from where it was saved"},
		func(ctx context.Context, in *RefInput) (api.Instance, error) { return s.Lives.Resume(ctx, in.Ref) })
	handle(a, route{id: "wait-instance", method: "GET", path: one + "/wait", tag: tag, summary: "Wait for an instance to end or to be removed"},
		func(ctx context.Context, in *waitInput) (api.Exit, error) {
			ctx, cancel := s.untilClosing(ctx)
			defer cancel()
			exit, err := s.Lives.Wait(ctx, in.Ref, in.Condition)
			return exit, s.errClosing(err)
		})
}

// notRunning says why a command cannot run in an instance.
func notRunning(state api.State) error {
	return fmt.Errorf("it is %s; start it first", state)
}
