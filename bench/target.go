package main

import (
	"fmt"
	"slices"
	"strings"
)

// target is what SPECIFICATION.md promises of a row's first subject.
type target struct {
	text string
	peer string // whose median decides; "" where the promise is a figure
	kept func(own, peer float64) bool
}

// atMost promises a figure in the row's unit.
func atMost(most float64, unit string) target {
	return target{fmt.Sprintf("≤ %g %s", most, unit), "", func(own, _ float64) bool { return own <= most }}
}

// atMostOf promises a multiple of a peer's figure as the most.
func atMostOf(factor float64, peer string) target {
	text := fmt.Sprintf("≤ %g × %s", factor, peer)
	if factor == 1 {
		text = "≤ " + peer
	}
	return target{text, peer, func(own, peer float64) bool { return own <= factor*peer }}
}

// atLeastOf promises a multiple of a peer's figure as the least.
func atLeastOf(factor float64, peer string) target {
	return target{fmt.Sprintf("≥ %g × %s", factor, peer), peer, func(own, peer float64) bool { return own >= factor*peer }}
}

// fasterThan promises a part of a peer's time as the most.
func fasterThan(factor float64, peer string) target {
	return target{fmt.Sprintf("≥ %g × faster than %s", factor, peer), peer, func(own, peer float64) bool { return factor*own <= peer }}
}

// verdict is a target and what became of it.
type verdict struct {
	Target string `json:"target"`
	Result string `json:"result"` // "met", "missed", or "no peer" where there is nothing to compare with
}

// judge holds a row's subjects against its targets.
func judge(subjects []subject, targets []target) []verdict {
	verdicts := []verdict{}
	for _, t := range targets {
		peer := subject{}
		if t.peer != "" {
			peer = subjects[slices.IndexFunc(subjects, func(s subject) bool { return s.Name == t.peer })]
		}
		v := verdict{t.text, "missed"}
		switch {
		case peer.Missing != "":
			v.Result = "no peer"
		case t.kept(subjects[0].Median, peer.Median):
			v.Result = "met"
		}
		verdicts = append(verdicts, v)
	}
	return verdicts
}

// String tells of a met target nothing but itself.
func (v verdict) String() string {
	if v.Result == "met" {
		return v.Target
	}
	return v.Target + " (" + v.Result + ")"
}

// list joins verdicts for the table.
func list(verdicts []verdict) string {
	var texts []string
	for _, v := range verdicts {
		texts = append(texts, v.String())
	}
	return strings.Join(texts, ", ")
}
