package rest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/client"
	"github.com/berthcloud/berth/internal/engine"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/testenv"
)

// echo behaves like cat: it copies input to output, and says its end on
// standard error.
func echo(_ context.Context, s instance.Streams) (api.Exit, error) {
	n, err := io.Copy(s.Stdout, s.Stdin)
	if err != nil {
		return api.Exit{}, err
	}
	_, _ = io.WriteString(s.Stderr, "end")
	return api.Exit{Code: int(n % 7)}, nil
}

func TestAttachStartsOnceReady(t *testing.T) {
	started := make(chan struct{})
	f := &fake{
		attach: func(ctx context.Context, s instance.Streams, ready func()) (api.Exit, error) {
			ready()
			select {
			case <-started:
				return echo(ctx, s)
			case <-ctx.Done():
				return api.Exit{}, ctx.Err()
			}
		},
		start: func(ref string) (api.Instance, error) {
			close(started)
			return api.Instance{ID: ref, Status: api.Status{State: api.Running, Notice: "hello"}}, nil
		},
	}
	c, _, _ := serve(t, f)
	var out, errs bytes.Buffer
	var notice string
	input := strings.Repeat("0123456789abcdef", 20000) // more than one message
	exit, err := c.Attach(t.Context(), "web", client.AttachOptions{Start: true, Started: func(s api.Status) { notice = s.Notice }},
		client.Streams{Stdin: strings.NewReader(input), Stdout: &out, Stderr: &errs})
	if err != nil || exit.Code != len(input)%7 {
		t.Fatalf("exit %+v, %v", exit, err)
	}
	if out.String() != input || errs.String() != "end" || notice != "hello" {
		t.Errorf("out: %d bytes of %d; err: %q; notice: %q", out.Len(), len(input), errs.String(), notice)
	}
}

func TestRunInOneRequest(t *testing.T) {
	started := make(chan struct{})
	c, _, _ := serve(t, &fake{
		create: func(_ context.Context, s api.Spec) (api.Instance, error) {
			if s.Image == "" {
				return api.Instance{}, api.E("create", api.Invalid, s.Name, errors.New("no image was named"))
			}
			return api.Instance{ID: "made", Name: s.Name}, nil
		},
		attach: func(ctx context.Context, s instance.Streams, ready func()) (api.Exit, error) {
			ready()
			select {
			case <-started:
				return echo(ctx, s)
			case <-ctx.Done():
				return api.Exit{}, ctx.Err()
			}
		},
		start: func(ref string) (api.Instance, error) {
			if ref != "made" {
				t.Errorf("started %q", ref)
			}
			close(started)
			return api.Instance{ID: ref, Status: api.Status{State: api.Running}}, nil
		},
	})
	var out bytes.Buffer
	var news []string
	o := client.RunOptions{
		Created: func(i api.Identity) { news = append(news, i.ID, i.Name) },
		Started: func(s api.Status) { news = append(news, string(s.State)) },
	}
	exit, err := c.RunAttached(t.Context(), api.Spec{Name: "x", Image: "base"}, o, client.Streams{Stdin: strings.NewReader("hello"), Stdout: &out})
	if err != nil || exit.Code != 5 || out.String() != "hello" || strings.Join(news, " ") != "made x running" {
		t.Errorf("%+v, %v, %q, %q", exit, err, out.String(), news)
	}
	if _, err := c.RunAttached(t.Context(), api.Spec{Name: "x"}, client.RunOptions{}, client.Streams{}); !api.IsKind(err, api.Invalid) || err.Error() != "create x: no image was named" {
		t.Errorf("refused: %v", err)
	}
}

func TestRunStartFails(t *testing.T) {
	var detached atomic.Bool
	c, _, _ := serve(t, &fake{
		create: func(context.Context, api.Spec) (api.Instance, error) { return api.Instance{ID: "made"}, nil },
		attach: func(ctx context.Context, _ instance.Streams, ready func()) (api.Exit, error) {
			ready()
			<-ctx.Done()
			detached.Store(true)
			return api.Exit{}, ctx.Err()
		},
		start: func(string) (api.Instance, error) {
			return api.Instance{}, api.E("start", api.NoCommand, "web", errors.New("foo is not in the image"))
		},
	})
	_, err := c.RunAttached(t.Context(), api.Spec{Image: "base"}, client.RunOptions{}, client.Streams{})
	if !api.IsKind(err, api.NoCommand) || err.Error() != "start web: foo is not in the image" || !detached.Load() {
		t.Errorf("err = %v, detached %v", err, detached.Load())
	}
	if _, err := c.RunDetached(t.Context(), api.Spec{Image: "base"}); !api.IsKind(err, api.NoCommand) {
		t.Errorf("detached: %v", err)
	}
}

func TestAttachStartFails(t *testing.T) {
	var detached atomic.Bool
	c, _, _ := serve(t, &fake{
		attach: func(ctx context.Context, _ instance.Streams, ready func()) (api.Exit, error) {
			ready()
			<-ctx.Done()
			detached.Store(true)
			return api.Exit{}, ctx.Err()
		},
		start: func(string) (api.Instance, error) {
			return api.Instance{}, api.E("start", api.NoCommand, "web", errors.New("foo is not in the image"))
		},
	})
	_, err := c.Attach(t.Context(), "web", client.AttachOptions{Start: true}, client.Streams{})
	if !api.IsKind(err, api.NoCommand) || err.Error() != "start web: foo is not in the image" {
		t.Errorf("err = %v", err)
	}
	if !detached.Load() {
		t.Error("the attachment goes on after the failed start")
	}
}

func TestAttachUnknownInstance(t *testing.T) {
	c, _, _ := serve(t, &fake{get: func(ref string) (api.Instance, error) {
		return api.Instance{}, api.E("", api.NotFound, ref, errors.New("no such instance"))
	}})
	_, err := c.Attach(t.Context(), "nope", client.AttachOptions{}, client.Streams{})
	if !api.IsKind(err, api.NotFound) {
		t.Errorf("err = %v", err)
	}
}

func TestExec(t *testing.T) {
	var got api.Exec
	c, _, _ := serve(t, &fake{exec: func(ctx context.Context, x api.Exec, s instance.Streams) (api.Exit, error) {
		got = x
		select {
		case size := <-s.Resize:
			if size != x.Size {
				t.Errorf("first size %+v, want %+v", size, x.Size)
			}
		case <-ctx.Done():
			return api.Exit{}, ctx.Err()
		}
		size := <-s.Resize
		_, _ = s.Stdout.Write([]byte{byte(size.Rows), byte(size.Cols)})
		return echo(ctx, s)
	}})
	resize := make(chan api.Size, 1)
	resize <- api.Size{Rows: 7, Cols: 9}
	var out bytes.Buffer
	want := api.Exec{Command: []string{"sh", "-c", "true"}, Env: []string{"A=1"}, User: "u", TTY: true, Stdin: true, Size: api.Size{Rows: 24, Cols: 80}}
	r, w := io.Pipe()
	go func() {
		_, _ = io.WriteString(w, "hi")
		_ = w.Close()
	}()
	exit, err := c.Exec(t.Context(), "web", want, client.Streams{Stdin: r, Stdout: &out, Resize: resize})
	if err != nil || exit.Code != 2 || out.String() != "\x07\x09hi" {
		t.Errorf("exit %+v, %v; output %q", exit, err, out.String())
	}
	if strings.Join(got.Command, " ") != "sh -c true" || got.Size != want.Size || got.User != "u" {
		t.Errorf("command on the server: %+v", got)
	}
}

func TestClientThatGoesEndsTheCommand(t *testing.T) {
	ended := make(chan error, 1)
	running := make(chan struct{})
	c, _, _ := serve(t, &fake{exec: func(ctx context.Context, _ api.Exec, s instance.Streams) (api.Exit, error) {
		close(running)
		_, err := io.Copy(io.Discard, s.Stdin) // must not end as if the user had closed it
		<-ctx.Done()
		ended <- err
		return api.Exit{}, ctx.Err()
	}})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-running; cancel() }()
	r, w := io.Pipe()
	defer w.Close()
	_, err := c.Exec(ctx, "web", api.Exec{Command: []string{"cat"}, Stdin: true}, client.Streams{Stdin: r})
	if !api.IsKind(err, api.Canceled) {
		t.Errorf("the client: %v", err)
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("standard input ended as if the client had closed it")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the command goes on without its client")
	}
}

// A failure of standard input that is not its end, as the detach keys are,
// ends the stream and is returned.
func TestStdinFailureEndsTheStream(t *testing.T) {
	detach := errors.New("detached")
	c, _, _ := serve(t, &fake{attach: func(ctx context.Context, _ instance.Streams, ready func()) (api.Exit, error) {
		ready()
		<-ctx.Done()
		return api.Exit{}, ctx.Err()
	}})
	r, w := io.Pipe()
	_ = w.CloseWithError(detach)
	_, err := c.Attach(t.Context(), "web", client.AttachOptions{}, client.Streams{Stdin: r})
	if !errors.Is(err, detach) {
		t.Errorf("err = %v", err)
	}
}

func TestShutdownEndsStreams(t *testing.T) {
	attached := make(chan struct{}, 2)
	wait := func(ctx context.Context) error {
		attached <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	c, _, s := serve(t, &fake{
		attach: func(ctx context.Context, _ instance.Streams, ready func()) (api.Exit, error) {
			ready()
			return api.Exit{}, wait(ctx)
		},
		logs: func(ctx context.Context, _ engine.LogOptions, f func(api.LogLine) error) error {
			if err := f(api.LogLine{Text: "one"}); err != nil {
				return err
			}
			return wait(ctx)
		},
	})
	failures := make(chan error, 2)
	go func() {
		_, err := c.Attach(t.Context(), "web", client.AttachOptions{}, client.Streams{})
		failures <- err
	}()
	go func() {
		failures <- c.Logs(t.Context(), "web", client.LogOptions{Follow: true, Tail: -1}, func(api.LogLine) error { return nil })
	}()
	<-attached
	<-attached
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-failures; !api.IsKind(err, api.Unavailable) || !strings.Contains(err.Error(), "shutting down") {
			t.Errorf("a client of a stream: %v", err)
		}
	}
}

func TestLogs(t *testing.T) {
	boom := api.E("logs", api.Corrupt, "web", errors.New("the log is broken; remove it"))
	var options engine.LogOptions
	lines := 2
	c, _, _ := serve(t, &fake{logs: func(_ context.Context, o engine.LogOptions, f func(api.LogLine) error) error {
		options = o
		for i := range lines {
			if err := f(api.LogLine{Text: string(rune('a' + i)), Stream: "stdout"}); err != nil {
				return err
			}
		}
		return boom
	}})
	since := time.Date(2026, 11, 23, 15, 4, 5, 6, time.UTC)
	for _, lines = range []int{0, 1, 2} { // a failure before, and after the first line
		got := 0
		err := c.Logs(t.Context(), "web", client.LogOptions{Tail: 5, Since: since}, func(api.LogLine) error { got++; return nil })
		if got != lines || !api.IsKind(err, api.Corrupt) || err.Error() != boom.Error() {
			t.Errorf("%d lines: got %d, %v", lines, got, err)
		}
	}
	if options.Tail != 5 || !options.Since.Equal(since) || options.Follow {
		t.Errorf("options: %+v", options)
	}
}

func TestFiles(t *testing.T) {
	late := api.E("cp", api.Exhausted, "web", errors.New("no room; remove something"))
	bytesOut, fails := 0, error(nil)
	var received bytes.Buffer
	c, _, _ := serve(t, &fake{
		out: func(_ string, w io.Writer) error {
			_, _ = w.Write(bytes.Repeat([]byte("x"), bytesOut))
			return fails
		},
		in: func(dir string, r io.Reader) error {
			if dir != "/a b" {
				t.Errorf("dir = %q", dir)
			}
			_, err := io.Copy(&received, r)
			return err
		},
	})
	for _, bytesOut = range []int{0, 1, 1 << 20} {
		for _, fails = range []error{nil, late} {
			var got bytes.Buffer
			err := c.CopyOut(t.Context(), "web", "/etc", &got)
			if got.Len() != bytesOut || (err == nil) != (fails == nil) || (err != nil && err.Error() != late.Error()) {
				t.Errorf("%d bytes, then %v: got %d bytes, then %v", bytesOut, fails, got.Len(), err)
			}
		}
	}
	r, w := io.Pipe() // of unknown length
	go func() { _, _ = io.WriteString(w, "tar"); _ = w.Close() }()
	if err := c.CopyIn(t.Context(), "web", "/a b", r); err != nil || received.String() != "tar" {
		t.Errorf("copy in: %q, %v", received.String(), err)
	}
}

// The answer to an import begins while its body is still being sent.
func TestImportAnswersMeanwhile(t *testing.T) {
	state := make(chan api.Operation, 3)
	c, _, _ := serve(t, &fake{
		load: func(_ context.Context, o engine.ImportOptions) (api.Operation, error) {
			op := api.Operation{ID: "1", Name: o.Name}
			go func() {
				var two [2]byte
				_, _ = io.ReadFull(o.Body, two[:])
				state <- op
				_, _ = io.Copy(io.Discard, o.Body)
				op.Done, op.Result = true, "web:latest"
				state <- op
			}()
			return op, nil
		},
		watch: func(ctx context.Context, _ string, f func(api.Operation) error) error {
			for {
				select {
				case op := <-state:
					if err := f(op); err != nil || op.Done {
						return err
					}
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		},
	})
	r, w := io.Pipe()
	go func() { _, _ = io.WriteString(w, "ab") }()
	states := 0
	op, err := c.ImportImage(t.Context(), "web", r, func(op api.Operation) error {
		if states++; states == 1 {
			go func() { _, _ = io.WriteString(w, "the rest"); _ = w.Close() }()
		}
		return nil
	})
	if err != nil || op.Result != "web:latest" || states != 2 {
		t.Errorf("%+v, %v after %d states", op, err, states)
	}
}

func TestInterruptedImportIsCanceled(t *testing.T) {
	canceled, stopped := make(chan struct{}), make(chan struct{})
	c, _, _ := serve(t, &fake{
		load: func(_ context.Context, o engine.ImportOptions) (api.Operation, error) {
			go func() {
				_, _ = io.Copy(io.Discard, o.Body)
				<-canceled
				close(stopped)
			}()
			return api.Operation{ID: "1"}, nil
		},
		watch: func(ctx context.Context, _ string, f func(api.Operation) error) error {
			if err := f(api.Operation{ID: "1"}); err != nil {
				return err
			}
			select {
			case <-stopped:
				return f(api.Operation{ID: "1", Done: true})
			case <-ctx.Done():
				return ctx.Err()
			}
		},
		cancel: func(string) error { close(canceled); return nil },
	})
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	defer w.Close()
	go func() { _, _ = io.WriteString(w, "ab") }()
	_, err := c.ImportImage(ctx, "web", r, func(api.Operation) error { cancel(); return nil })
	if !api.IsKind(err, api.Canceled) {
		t.Errorf("err = %v", err)
	}
	select {
	case <-stopped:
	case <-time.After(10 * time.Second):
		t.Fatal("the import goes on without its client")
	}
}

// TestStreamsLeaveNothing is the class of CVE-2025-64329: goroutines and file
// descriptors after many streams, ended in every way, are those of before.
// serve checks the goroutines.
func TestStreamsLeaveNothing(t *testing.T) {
	f := &fake{exec: func(ctx context.Context, x api.Exec, s instance.Streams) (api.Exit, error) {
		switch x.Command[0] {
		case "fail":
			return api.Exit{}, errors.New("no")
		case "wait":
			_, _ = s.Stdout.Write([]byte("x"))
			<-ctx.Done()
			return api.Exit{}, ctx.Err()
		}
		return api.Exit{}, nil
	}}
	c, _, _ := serve(t, f)
	fds := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	run := func(n int) {
		for i := range n {
			ctx, cancel := context.WithCancel(t.Context())
			x := api.Exec{Command: []string{[]string{"ok", "fail", "wait"}[i%3]}}
			r, w := io.Pipe()
			if i%2 == 0 {
				x.Stdin = true
			}
			_, _ = c.Exec(ctx, "web", x, client.Streams{Stdin: r, Stdout: writerFunc(func([]byte) { cancel() })})
			cancel()
			w.Close()
		}
	}
	run(10) // what is made once and kept
	before := fds()
	run(300)
	testenv.Eventually(t, 10*time.Second, func() error {
		if n := fds(); n > before+3 { // idle connections come and go
			return fmt.Errorf("%d file descriptors before, %d after", before, n)
		}
		return nil
	})
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

// A client that gives up on an operation takes the operation back.
func TestInterruptedOperationIsCanceled(t *testing.T) {
	canceled := make(chan struct{})
	c, _, _ := serve(t, &fake{
		pull: func(o engine.PullOptions) (api.Operation, error) { return api.Operation{ID: "1", Name: o.Ref}, nil },
		watch: func(ctx context.Context, _ string, f func(api.Operation) error) error {
			if err := f(api.Operation{ID: "1", Progress: []api.Progress{{Part: "p"}}}); err != nil {
				return err
			}
			<-ctx.Done()
			return ctx.Err()
		},
		cancel: func(id string) error {
			if id == "1" {
				close(canceled)
			}
			return nil
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	_, err := c.Run(ctx, client.OperationRequest{Pull: &client.PullRequest{Image: "a/b"}}, func(api.Operation) error { cancel(); return nil })
	if !api.IsKind(err, api.Canceled) {
		t.Errorf("err = %v", err)
	}
	select {
	case <-canceled:
	default:
		t.Error("the operation goes on without its client")
	}
}

func TestOperationOutcome(t *testing.T) {
	var last api.Operation
	c, _, _ := serve(t, &fake{
		pull:  func(engine.PullOptions) (api.Operation, error) { return api.Operation{ID: "1"}, nil },
		watch: func(_ context.Context, _ string, f func(api.Operation) error) error { return f(last) },
	})
	pull := client.OperationRequest{Pull: &client.PullRequest{Image: "a/b"}}
	last = api.Operation{ID: "1", Done: true, Result: "a/b:latest"}
	if op, err := c.Run(t.Context(), pull, nil); err != nil || op.Result != "a/b:latest" {
		t.Errorf("%+v, %v", op, err)
	}
	last = api.Operation{ID: "1", Done: true, Error: &api.Problem{Kind: api.NotFound, Message: "pull a/b: no such image; check its name"}}
	if _, err := c.Run(t.Context(), pull, nil); !api.IsKind(err, api.NotFound) || err.Error() != last.Error.Message {
		t.Errorf("a failed pull: %v", err)
	}
	last = api.Operation{ID: "1"}
	if _, err := c.Run(t.Context(), pull, nil); !api.IsKind(err, api.Unavailable) {
		t.Errorf("a watch that ends early: %v", err)
	}
}
