package engine

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/berthcloud/berth/api"
)

const (
	eventHistory = 1024 // kept for --since
	eventBuffer  = 256  // how far a listener may be behind before it is cut off
)

// bus hands events to listeners and keeps the latest. It never blocks the
// publisher.
type bus struct {
	mu        sync.Mutex
	recent    []api.Event
	listeners map[chan api.Event]struct{}
	closed    bool
}

func newBus() *bus { return &bus{listeners: make(map[chan api.Event]struct{})} }

func (b *bus) publish(ev api.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.recent) == eventHistory {
		b.recent = append(b.recent[:0], b.recent[1:]...)
	}
	b.recent = append(b.recent, ev)
	for ch := range b.listeners {
		select {
		case ch <- ev:
		default:
			delete(b.listeners, ch)
			close(ch)
		}
	}
}

// subscribe returns the recent events and a channel of all that follow.
func (b *bus) subscribe() (recent []api.Event, ch chan api.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ch = make(chan api.Event, eventBuffer)
	if b.closed {
		close(ch)
	} else {
		b.listeners[ch] = struct{}{}
	}
	return append(recent, b.recent...), ch
}

func (b *bus) unsubscribe(ch chan api.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.listeners[ch]; ok {
		delete(b.listeners, ch)
		close(ch)
	}
}

func (b *bus) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for ch := range b.listeners {
		delete(b.listeners, ch)
		close(ch)
	}
}

// publish announces an instance's event.
func (e *Engine) publish(en *entry, action string, detail map[string]string) {
	e.events.publish(api.Event{Time: time.Now().UTC(), Type: "instance", Action: action, ID: en.id, Name: en.name(), Detail: detail})
}

// announce announces the event of anything else.
func (e *Engine) announce(typ, action, name string) {
	e.events.publish(api.Event{Time: time.Now().UTC(), Type: typ, Action: action, Name: name})
}

func exitDetail(x api.Exit) map[string]string {
	d := map[string]string{"code": strconv.Itoa(x.Code)}
	if x.OOM {
		d["oom"] = "true"
	}
	if x.Reboot {
		d["reboot"] = "true"
	}
	if x.Error != "" {
		d["error"] = x.Error
	}
	return d
}

// EventOptions choose events. Zero times do not bound: without Since only new
// events are sent, without Until they are sent until the context ends.
type EventOptions struct {
	Since, Until time.Time
	Filters      map[string][]string // type, action, name, id: any of the values matches
}

// Events calls f for each event, in order, until the context ends, Until has
// passed, or f fails.
func (e *Engine) Events(ctx context.Context, o EventOptions, f func(api.Event) error) error {
	recent, ch := e.events.subscribe()
	defer e.events.unsubscribe(ch)
	if !o.Until.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, o.Until)
		defer cancel()
	}
	if !o.Since.IsZero() {
		for _, ev := range recent {
			if ev.Time.Before(o.Since) || !o.Until.IsZero() && ev.Time.After(o.Until) || !matchEvent(o.Filters, ev) {
				continue
			}
			if err := f(ev); err != nil {
				return err
			}
		}
	}
	for {
		select {
		case ev, ok := <-ch:
			if !ok {
				return nil
			}
			if !matchEvent(o.Filters, ev) {
				continue
			}
			if err := f(ev); err != nil {
				return err
			}
		case <-ctx.Done():
			if !o.Until.IsZero() && !time.Now().Before(o.Until) {
				return nil
			}
			return ctx.Err()
		}
	}
}

func matchEvent(filters map[string][]string, ev api.Event) bool {
	fields := map[string]string{"type": ev.Type, "action": ev.Action, "name": ev.Name, "id": ev.ID}
	for key := range maps.Keys(filters) {
		if !matchAny(filters[key], func(want string) bool {
			return fields[key] == want || key == "id" && want != "" && strings.HasPrefix(ev.ID, want)
		}) {
			return false
		}
	}
	return true
}

func matchAny(wants []string, ok func(string) bool) bool {
	if slices.ContainsFunc(wants, ok) {
		return true
	}
	return len(wants) == 0
}
