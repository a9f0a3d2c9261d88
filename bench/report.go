package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// report is the whole result.
type report struct {
	Date    time.Time `json:"date"`
	Machine machine   `json:"machine"`
	Version string    `json:"version"` // of Berth
	Rows    []row     `json:"rows"`
}

// row is one thing measured, of Berth and of its peers.
type row struct {
	Name     string    `json:"name"`
	Unit     string    `json:"unit"`
	Verdicts []verdict `json:"verdicts"`
	Subjects []subject `json:"subjects"` // Berth first
}

// subject is one program in a row.
type subject struct {
	Name    string  `json:"name"`
	N       int     `json:"n,omitempty"`
	Median  float64 `json:"median,omitempty"`
	Least   float64 `json:"least,omitempty"`
	P90     float64 `json:"p90,omitempty"`
	Ratio   float64 `json:"ratio,omitempty"`   // its median over Berth's
	Missing string  `json:"missing,omitempty"` // why it was not measured
}

// print writes the table, in Markdown so that it can go into the README.
func (r report) print(w io.Writer) {
	fmt.Fprintf(w, "\nBerth %s on %s, %s\n\n", r.Version, r.Machine, r.Date.Format("2006-01-02"))
	var table strings.Builder
	t := tabwriter.NewWriter(&table, 0, 8, 1, ' ', 0)
	fmt.Fprintln(t, "| what\t| program\t| median\t| least\t| 90 %\t| n\t| × Berth\t| to reach\t|")
	fmt.Fprintln(t, "| ---\t| ---\t| ---\t| ---\t| ---\t| ---\t| ---\t| ---\t|")
	for _, row := range r.Rows {
		for i, s := range row.Subjects {
			name, target := "", ""
			if i == 0 {
				name, target = row.Name, list(row.Verdicts)
			}
			if s.Missing != "" {
				fmt.Fprintf(t, "| %s\t| %s\t| %s\t| \t| \t| \t| \t| %s\t|\n", name, s.Name, s.Missing, target)
				continue
			}
			fmt.Fprintf(t, "| %s\t| %s\t| %s %s\t| %s\t| %s\t| %d\t| %.2f\t| %s\t|\n",
				name, s.Name, figure(s.Median), row.Unit, figure(s.Least), figure(s.P90), s.N, s.Ratio, target)
		}
	}
	t.Flush()
	fmt.Fprint(w, table.String())
}

// figure prints three significant digits.
func figure(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
