package show

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/berthcloud/berth/api"
)

// Progress shows how an operation gets on: as bars that are redrawn in place
// on a terminal, as a line per change elsewhere. It keeps no goroutine: it
// draws when it is told something.
type Progress struct {
	w       io.Writer
	width   func() int // columns of the terminal; nil where w is none
	now     func() time.Time
	lines   int               // drawn at present
	drawn   time.Time         // when
	last    api.Operation     // what a throttled drawing left out
	pending bool              // whether last still has to be drawn
	said    map[string]string // part → the latest line of a plain progress
}

// frame is the least time between two drawings, so that a fast download does
// not spend its time on a slow terminal.
const frame = 100 * time.Millisecond

// NewProgress shows progress on w. Width tells the columns of a terminal; nil
// asks for plain lines.
func NewProgress(w io.Writer, width func() int) *Progress {
	return &Progress{w: w, width: width, now: time.Now, said: map[string]string{}}
}

// Update shows a state of the operation.
func (p *Progress) Update(op api.Operation) error {
	if p.width == nil {
		return p.plain(op)
	}
	p.last, p.pending = op, true
	if now := p.now(); now.Sub(p.drawn) >= frame {
		p.drawn = now
		return p.draw()
	}
	return nil
}

// Close draws what is left to draw. The lines stay on the screen.
func (p *Progress) Close() error {
	if p.pending {
		return p.draw()
	}
	return nil
}

// plain prints each part's stage once, and each line of text.
func (p *Progress) plain(op api.Operation) error {
	for _, part := range op.Progress {
		line := label(part)
		if part.Text != "" {
			line += ": " + api.OneLine(part.Text)
		}
		if line == "" || p.said[part.Part] == line {
			continue
		}
		p.said[part.Part] = line
		if _, err := fmt.Fprintln(p.w, line); err != nil {
			return err
		}
	}
	return nil
}

// draw replaces the lines drawn before by the latest state.
func (p *Progress) draw() error {
	p.pending = false
	var b strings.Builder
	if p.lines > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", p.lines) // up
	}
	width := max(p.width(), 20)
	for _, part := range p.last.Progress {
		// \x1b[K: erase what is left of a longer line.
		b.WriteString(Ellipsis(bar(part, width-1), width-1) + "\x1b[K\n")
	}
	p.lines = max(p.lines, len(p.last.Progress))
	for range p.lines - len(p.last.Progress) {
		b.WriteString("\x1b[K\n")
	}
	_, err := io.WriteString(p.w, b.String())
	return err
}

// label names a part and its stage.
func label(part api.Progress) string {
	switch name, stage := api.OneLine(part.Part), api.OneLine(part.Stage); {
	case name == "":
		return stage
	case stage == "":
		return name
	default:
		return name + ": " + stage
	}
}

// barWidth is the length of a bar in characters.
const barWidth = 24

// bar writes one part as a line of at most width characters, as
//
//	4f4fb700ef54: downloading [=======>        ] 12.5MiB / 48.1MiB
func bar(part api.Progress, width int) string {
	line := label(part)
	switch {
	case part.Text != "":
		return line + ": " + api.OneLine(part.Text)
	case part.Total > 0:
		current := min(max(part.Current, 0), part.Total)
		if width >= len(line)+barWidth+24 {
			n := int(float64(current) / float64(part.Total) * barWidth)
			fill := strings.Repeat("=", n)
			if n < barWidth {
				fill += ">" + strings.Repeat(" ", barWidth-n-1)
			}
			line += " [" + fill + "]"
		}
		return line + " " + Bytes(current) + " / " + Bytes(part.Total)
	case part.Current > 0:
		return line + " " + Bytes(part.Current)
	}
	return line
}
