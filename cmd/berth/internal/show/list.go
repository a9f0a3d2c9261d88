// Package show prints what the command line has to say: tables, JSON,
// templates, and the progress of operations.
package show

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"text/template"
	"unicode"

	"github.com/berthcloud/berth/api"
)

// Column is one column of a list of T.
type Column[T any] struct {
	Key    string // in a template: {{.Key}}
	Title  string // above the column
	Hidden bool   // shown only where a template asks for it
	Value  func(T) string
}

// List prints items as format says: "" or "table" for all columns that are
// not hidden, "json" for the items themselves, anything else is a Go template
// over the columns, one line per item; "table TEMPLATE" aligns its tab-separated
// cells under titles.
func List[T any](w io.Writer, format string, items []T, columns []Column[T]) error {
	switch format {
	case "json":
		if items == nil {
			items = []T{} // [] and not null
		}
		return JSON(w, items)
	case "", "table":
		return table(w, items, columns)
	}
	text, aligned := strings.CutPrefix(format, "table ")
	tmpl, err := Template(text)
	if err != nil {
		return err
	}
	out := w
	if aligned {
		tw := tabs(w)
		defer tw.Flush()
		out = tw
		titles := map[string]string{}
		for _, c := range columns {
			titles[c.Key] = c.Title
		}
		if err := line(out, tmpl, titles); err != nil {
			return err
		}
	}
	for _, item := range items {
		row := map[string]string{}
		for _, c := range columns {
			row[c.Key] = c.Value(item)
		}
		if err := line(out, tmpl, row); err != nil {
			return err
		}
	}
	return nil
}

// table prints the visible columns under their titles.
func table[T any](w io.Writer, items []T, columns []Column[T]) error {
	tw := tabs(w)
	var cells []string
	for _, c := range columns {
		if !c.Hidden {
			cells = append(cells, c.Title)
		}
	}
	fmt.Fprintln(tw, strings.Join(cells, "\t"))
	for _, item := range items {
		cells = cells[:0]
		for _, c := range columns {
			if !c.Hidden {
				cells = append(cells, api.OneLine(c.Value(item)))
			}
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	return tw.Flush()
}

func tabs(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 8, 1, 3, ' ', 0) }

// Inspect prints objects in full: as a JSON array, or each by a template over
// their API type, as in {{.Status.State}}.
func Inspect(w io.Writer, format string, objects []any) error {
	if format == "" || format == "json" {
		return JSON(w, objects)
	}
	tmpl, err := Template(format)
	if err != nil {
		return err
	}
	for _, o := range objects {
		if err := line(w, tmpl, o); err != nil {
			return err
		}
	}
	return nil
}

// One prints a single object: by human where format is "", as JSON, or by a
// template.
func One(w io.Writer, format string, object any, human func(io.Writer) error) error {
	switch format {
	case "", "table":
		return human(w)
	case "json":
		return JSON(w, object)
	}
	tmpl, err := Template(format)
	if err != nil {
		return err
	}
	return line(w, tmpl, object)
}

// JSON prints a value as indented JSON.
func JSON(w io.Writer, v any) error {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return err
	}
	_, err := io.WriteString(w, escape(b.String()))
	return err
}

// escape writes out the control characters from U+007F on. JSON allows them in
// strings, and some terminals obey them: U+009B is as good as ESC [.
func escape(text string) string {
	if !strings.ContainsFunc(text, beyondASCII) {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		if beyondASCII(r) {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func beyondASCII(r rune) bool { return r >= 0x7f && unicode.IsControl(r) }

// Template reads a Go template with the functions docker users know.
func Template(text string) (*template.Template, error) {
	text = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(text)
	t, err := template.New("format").Option("missingkey=error").Funcs(template.FuncMap{
		"json": func(v any) (string, error) {
			b, err := json.Marshal(v)
			return escape(string(b)), err
		},
		"join":  strings.Join,
		"split": strings.Split,
		"lower": strings.ToLower,
		"upper": strings.ToUpper,
		"truncate": func(s string, n int) string {
			if r := []rune(s); n >= 0 && len(r) > n {
				return string(r[:n])
			}
			return s
		},
	}).Parse(text)
	if err != nil {
		return nil, templateError(err)
	}
	return t, nil
}

// line prints one object by a template, and a line break.
func line(w io.Writer, t *template.Template, v any) error {
	var b strings.Builder
	if err := t.Execute(&b, v); err != nil {
		return templateError(err)
	}
	_, err := fmt.Fprintln(w, b.String())
	return err
}

func templateError(err error) error {
	why := strings.TrimPrefix(api.OneLine(err.Error()), "template: ")
	return api.E("", api.Invalid, "", fmt.Errorf("--format: %s; write json, table or a Go template", why))
}
