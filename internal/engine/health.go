package engine

import (
	"context"
	"io"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// Defaults of a health check, docker's.
const (
	healthInterval = 30 * time.Second
	healthTimeout  = 30 * time.Second
	healthRetries  = 3
)

// watchHealth starts the health check of a run that has one.
func (e *Engine) watchHealth(en *entry, r *run) {
	en.mu.Lock()
	check := effectiveHealth(en.rec.Spec.Health, en.rec.Config.Health)
	en.mu.Unlock()
	ex, ok := r.handle.(instance.Execer)
	command := healthCommand(check)
	if !ok || command == nil {
		return
	}
	en.observe(func(st *api.Status) { st.Health = api.HealthStarting })
	e.background(func(ctx context.Context) { e.checkHealth(ctx, en, r, ex, *check, command) })
}

// effectiveHealth is the image's check, or the user's in its place. A user's
// check without a test changes the times of the image's.
func effectiveHealth(spec, image *api.HealthCheck) *api.HealthCheck {
	switch {
	case spec == nil:
		return image
	case len(spec.Test) > 0 || image == nil:
		return spec
	}
	merged := *spec
	merged.Test = image.Test
	return &merged
}

// healthCommand returns the command of a check, nil where there is none.
func healthCommand(c *api.HealthCheck) []string {
	if c == nil || len(c.Test) < 2 {
		return nil
	}
	switch c.Test[0] {
	case "CMD":
		return c.Test[1:]
	case "CMD-SHELL":
		return []string{"/bin/sh", "-c", c.Test[1]}
	}
	return nil
}

// checkHealth runs the command at intervals until the run ends.
func (e *Engine) checkHealth(ctx context.Context, en *entry, r *run, ex instance.Execer, c api.HealthCheck, command []string) {
	retries := c.Retries
	if retries == 0 {
		retries = healthRetries
	}
	started, failures := time.Now(), 0
	tick := time.NewTicker(max(c.Interval.Or(healthInterval), time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-r.ended:
			return
		case <-ctx.Done():
			return
		}
		if en.snapshot().State != api.Running {
			continue
		}
		if probe(ctx, ex, command, c.Timeout.Or(healthTimeout)) {
			failures = 0
			e.setHealth(en, r, api.HealthHealthy)
			continue
		}
		if time.Since(started) < time.Duration(c.StartPeriod) {
			continue
		}
		if failures++; failures >= retries {
			e.setHealth(en, r, api.HealthUnhealthy)
		}
	}
}

func probe(ctx context.Context, ex instance.Execer, command []string, timeout time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	exit, err := ex.Exec(ctx, api.Exec{Command: command}, instance.Streams{Stdout: io.Discard, Stderr: io.Discard})
	return err == nil && exit.Code == 0
}

func (e *Engine) setHealth(en *entry, r *run, h api.Health) {
	changed := false
	en.observe(func(st *api.Status) {
		if en.run == r && st.Health != h {
			st.Health, changed = h, true
		}
	})
	if changed {
		e.publish(en, "health", map[string]string{"health": string(h)})
	}
}
