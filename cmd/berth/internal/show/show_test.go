package show

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
)

type thing struct{ A, B string }

func columns() []Column[thing] {
	return []Column[thing]{
		{Key: "A", Title: "FIRST", Value: func(t thing) string { return t.A }},
		{Key: "B", Title: "SECOND", Value: func(t thing) string { return t.B }},
		{Key: "C", Title: "THIRD", Hidden: true, Value: func(t thing) string { return t.A + t.B }},
	}
}

func TestList(t *testing.T) {
	things := []thing{{"a", "1"}, {"long name here", "two\x1b[31m\nlines\u009b2J"}}
	for format, want := range map[string]string{
		"":                          "FIRST            SECOND\na                1\nlong name here   two [31m lines 2J\n",
		"json":                      "[\n  {\n    \"A\": \"a\",\n    \"B\": \"1\"\n  },\n  {\n    \"A\": \"long name here\",\n    \"B\": \"two\\u001b[31m\\nlines\\u009b2J\"\n  }\n]\n",
		"{{.C}}|{{upper .A}}":       "a1|A\nlong name heretwo\x1b[31m\nlines\u009b2J|LONG NAME HERE\n",
		`table {{.A}}\t{{.C}}`:      "FIRST            THIRD\na                a1\nlong name here   long name heretwo\x1b[31m\nlines\u009b2J\n",
		"{{json .}}":                "{\"A\":\"a\",\"B\":\"1\",\"C\":\"a1\"}\n{\"A\":\"long name here\",\"B\":\"two\\u001b[31m\\nlines\\u009b2J\",\"C\":\"long name heretwo\\u001b[31m\\nlines\\u009b2J\"}\n",
		"{{truncate .A 4}}{{\"\"}}": "a\nlong\n",
	} {
		var b bytes.Buffer
		if err := List(&b, format, things, columns()); err != nil || b.String() != want {
			t.Errorf("%s: %v\n%q\nwant\n%q", format, err, b.String(), want)
		}
	}
	for _, format := range []string{"{{", "{{.Nope}}", "{{nope}}", "table {{.Nope}}"} {
		err := List(&bytes.Buffer{}, format, things, columns())
		if !api.IsKind(err, api.Invalid) || strings.Contains(err.Error(), "\n") || !strings.HasPrefix(err.Error(), "--format: ") {
			t.Errorf("%s: %v", format, err)
		}
	}
	var b bytes.Buffer
	if err := List[thing](&b, "json", nil, columns()); err != nil || b.String() != "[]\n" {
		t.Errorf("nothing as JSON: %q, %v", b.String(), err)
	}
}

func TestHuman(t *testing.T) {
	now := time.Date(2026, 11, 23, 15, 0, 0, 0, time.UTC)
	for got, want := range map[string]string{
		Bytes(0): "0B", Bytes(1536): "1.5KiB", Bytes(1 << 40): "1TiB", Bytes(-1): "-",
		Ago(now.Add(-5*time.Minute), now): "5 minutes ago", Ago(time.Time{}, now): "",
		ShortID("0123456789abcdef", false): "0123456789ab", ShortID("0123456789abcdef", true): "0123456789abcdef",
		Ellipsis("abcdef", 4): "abc…", Percent(1, 8): "12.50%", Percent(1, 0): "-",
	} {
		if got != want {
			t.Errorf("%q; want %q", got, want)
		}
	}
}

func TestProgressOnATerminal(t *testing.T) {
	var b bytes.Buffer
	clock := time.Unix(0, 0)
	p := NewProgress(&b, func() int { return 80 })
	p.now = func() time.Time { return clock }
	update := func(after time.Duration, parts ...api.Progress) string {
		t.Helper()
		b.Reset()
		clock = clock.Add(after)
		if err := p.Update(api.Operation{Progress: parts}); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	for _, step := range []struct{ got, want string }{
		{update(time.Second, api.Progress{Part: "4f4fb700ef54", Stage: "waiting"}), "4f4fb700ef54: waiting\x1b[K\n"},
		{update(time.Millisecond, api.Progress{Part: "4f4fb700ef54", Stage: "downloading", Current: 1, Total: 2}), ""},
		{update(time.Second, api.Progress{Part: "4f4fb700ef54", Stage: "downloading", Current: 12 << 20, Total: 24 << 20}, api.Progress{Part: "b", Stage: "x", Current: 5}),
			"\x1b[1A4f4fb700ef54: downloading [============>           ] 12MiB / 24MiB\x1b[K\nb: x 5B\x1b[K\n"},
		{update(time.Second, api.Progress{Part: "4f4fb700ef54", Stage: "x", Current: 99, Total: 24}), "\x1b[2A4f4fb700ef54: x [========================] 24B / 24B\x1b[K\n\x1b[K\n"},
		{update(time.Second, api.Progress{Part: "p", Stage: "s", Text: "a very long line\x1b[2J\n" + strings.Repeat("x", 100)}),
			"\x1b[2A" + Ellipsis("p: s: a very long line [2J "+strings.Repeat("x", 100), 79) + "\x1b[K\n\x1b[K\n"},
	} {
		if step.got != step.want {
			t.Errorf("drew %q\nwant %q", step.got, step.want)
		}
	}
	update(time.Millisecond, api.Progress{Part: "last"})
	b.Reset()
	if err := p.Close(); err != nil || b.String() != "\x1b[2Alast\x1b[K\n\x1b[K\n" {
		t.Errorf("at the end: %q, %v", b.String(), err)
	}
}

func TestProgressElsewhere(t *testing.T) {
	var b bytes.Buffer
	p := NewProgress(&b, nil)
	for _, part := range []api.Progress{
		{Part: "a", Stage: "downloading", Current: 1, Total: 9}, {Part: "a", Stage: "downloading", Current: 5, Total: 9},
		{Part: "a", Stage: "done"}, {Part: "log", Text: "I: one\x1b[1m"}, {Part: "log", Text: "I: two"}, {},
	} {
		if err := p.Update(api.Operation{Progress: []api.Progress{part}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if want := "a: downloading\na: done\nlog: I: one [1m\nlog: I: two\n"; b.String() != want {
		t.Errorf("printed\n%q\nwant\n%q", b.String(), want)
	}
}
