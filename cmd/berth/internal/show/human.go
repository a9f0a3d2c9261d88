package show

import (
	"fmt"
	"strconv"
	"time"

	"github.com/docker/go-units"
)

// Bytes writes a number of bytes in powers of 1024, as in 12.5MiB.
func Bytes(n int64) string {
	if n < 0 {
		return "-"
	}
	return units.CustomSize("%.4g%s", float64(n), 1024, []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"})
}

// Ago writes how long before now a time was, as in "5 minutes ago"; "" for
// the zero time.
func Ago(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return units.HumanDuration(now.Sub(t)) + " ago"
}

// For writes how long ago a time was, as in "5 minutes".
func For(t, now time.Time) string {
	if t.IsZero() {
		return "unknown time"
	}
	return units.HumanDuration(now.Sub(t))
}

// Time writes a point in time in full, in its own zone.
func Time(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format("2006-01-02 15:04:05 -0700 MST")
}

// ShortID is the first 12 digits of an id; full is the whole.
func ShortID(id string, full bool) string {
	if full || len(id) <= 12 {
		return id
	}
	return id[:12]
}

// Ellipsis shortens s to n characters.
func Ellipsis(s string, n int) string {
	r := []rune(s)
	if len(r) <= n || n < 1 {
		return s
	}
	return string(r[:n-1]) + "…"
}

// Percent writes a share, as in 12.34%.
func Percent(part, whole float64) string {
	if whole <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f%%", part/whole*100)
}

// Int writes a whole number.
func Int[T ~int | ~int64](n T) string { return strconv.FormatInt(int64(n), 10) }
