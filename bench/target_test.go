package main

import "testing"

func TestJudge(t *testing.T) {
	subjects := []subject{{Name: "berth", Median: 10}, {Name: "crun", Median: 20}, {Name: "docker", Missing: "not installed"}}
	for _, c := range []struct {
		target target
		want   string
	}{
		{atMost(10, "ms"), "≤ 10 ms"},
		{atMost(9.5, "ms"), "≤ 9.5 ms (missed)"},
		{atMostOf(0.6, "crun"), "≤ 0.6 × crun"},
		{atMostOf(0.4, "crun"), "≤ 0.4 × crun (missed)"},
		{atMostOf(1, "crun"), "≤ crun"},
		{atLeastOf(0.5, "crun"), "≥ 0.5 × crun"},
		{atLeastOf(0.8, "crun"), "≥ 0.8 × crun (missed)"},
		{fasterThan(2, "crun"), "≥ 2 × faster than crun"},
		{fasterThan(3, "crun"), "≥ 3 × faster than crun (missed)"},
		{fasterThan(15, "docker"), "≥ 15 × faster than docker (no peer)"},
	} {
		if got := list(judge(subjects, []target{c.target})); got != c.want {
			t.Errorf("%q; want %q", got, c.want)
		}
	}
}
